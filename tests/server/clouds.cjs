// Loaded into Portkey's gateway after loopback.cjs. What the gateway would send to a cloud goes to a server on
// loopback, whose port is in LOOPBACK_S3, LOOPBACK_BEDROCK and so on; every other host is refused, so that no test
// reaches the internet. fetch() sets the Host header itself, so the cloud's own host is in x-original-host.
const CLOUDS = [
  [/\.s3\.[a-z0-9-]+\.amazonaws\.com$/, "S3"],
  [/^bedrock\.[a-z0-9-]+\.amazonaws\.com$/, "BEDROCK"],
  [/^storage\.googleapis\.com$/, "GCS"],
  [/^([a-z0-9-]+-)?aiplatform\.googleapis\.com$/, "VERTEX"],
  [/^api\.cohere\.(ai|com)$/, "COHERE"],
  [/^api\.openai\.com$/, "OPENAI"],
  [/\.openai\.azure\.com$/, "AZURE"],
  [/\.blob\.core\.windows\.net$/, "AZURE"],
];
const LOOPBACK = ["127.0.0.1", "localhost"];

const fetch = globalThis.fetch;
globalThis.fetch = function (target, options = {}) {
  const url = new URL(target);
  if (LOOPBACK.includes(url.hostname)) return fetch(target, options);
  const [pattern, cloud] = CLOUDS.find(([pattern]) => pattern.test(url.hostname)) ?? [];
  const port = process.env[`LOOPBACK_${cloud}`];
  if (!port) return Promise.reject(new TypeError(`No server on loopback stands for ${url.hostname}`));
  const headers = new Headers(options.headers);
  headers.set("x-original-host", url.host);
  // S3 has the bucket in the host's name; in a path it means the same.
  if (cloud === "S3") url.pathname = `/${url.hostname.replace(pattern, "")}${url.pathname}`;
  url.protocol = "http:";
  url.host = `127.0.0.1:${port}`;
  return fetch(url, { ...options, headers });
};

// The route of Cohere's output calls require() inside an ES module, and would close the connection.
globalThis.require = require("node:module").createRequire(process.argv[1]);
