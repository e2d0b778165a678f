// Loaded into Portkey's gateway before its own code. The gateway has no option for the host and would listen on
// every interface. With this it listens on loopback only, and prints its port, so that the system can choose a free one.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  this.once("listening", () => console.log(`[loopback port ${this.address().port}]`));
  return listen.call(this, { host: "127.0.0.1", port }, ...rest.filter((each) => typeof each === "function"));
};

// Standard input is a pipe from the tests. It closes when they end, however they end, and then the gateway exits.
process.stdin.on("end", () => process.exit()).resume();
