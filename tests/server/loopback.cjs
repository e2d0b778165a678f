// Loaded into Portkey's gateway before its own code. The gateway has no option for the host and would listen on
// every interface: here it listens on loopback only, and tells its port, so that the system can choose a free one.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  this.once("listening", () => console.log(`[loopback port ${this.address().port}]`));
  return listen.call(this, { host: "127.0.0.1", port }, ...rest.filter((each) => typeof each === "function"));
};

// Standard input is a pipe from the tests: however they end, it ends with them, and so does the gateway.
process.stdin.on("end", () => process.exit()).resume();
