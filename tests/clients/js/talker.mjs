// The official JavaScript client as a talker: it connects once, says what it sees, and sends what
// it is told to. Standard input and output are those of ../py/talker.py.
//
//   node talker.mjs HOST PORT

import { createInterface } from "node:readline";
import { Protobuf, Types } from "@meshtastic/core";
import { configure, connect, print, refusal } from "./library.mjs";

const ERROR = 5; // levels of the library's log from here on

process.on("uncaughtException", (error) => report(error));
process.on("unhandledRejection", (error) => report(error));
// What the library has to say about itself. That no Routing reply came in 60 s is no fault of the
// connection: a node that is killed never sends one.
console.error = report;
console.warn = (line) => / timed out$/.test(line) || report(line);

if (process.argv.length !== 4) {
  report("usage: talker.mjs HOST PORT");
  process.exit(2);
}
const device = await connect(process.argv[2], Number(process.argv[3]));
const nodes = new Set();
let sending = false;
let leaving = false;
watch();
await configure(device, report);
const own = device.myNodeInfo.myNodeNum;
nodes.delete(own);
print({ ready: own, nodes: nodes.size });
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "quit") break;
  send(line.slice("send ".length));
}
leaving = true;
await device.disconnect();
// The library's 60 s timer per sent frame would keep the process alive.
process.exit(0);

function watch() {
  const { events } = device;
  device.log.attachTransport((entry) => {
    if (entry._meta.logLevelId >= ERROR) report(Object.values(entry).slice(0, -1).join(" "));
  });
  events.onNodeInfoPacket.subscribe((node) => nodes.add(node.num));
  events.onMessagePacket.subscribe(({ data, from, id }) => {
    // The library shows its own texts as if they had come in.
    if (!sending) print({ received: data, from, id });
  });
  // A Routing packet comes as both, one right after the other.
  let about = 0;
  events.onMeshPacket.subscribe(({ payloadVariant: { case: variant, value } }) => {
    if (variant === "decoded") about = value.requestId;
  });
  events.onRoutingPacket.subscribe(({ data: { variant } }) => {
    print({ answered: about, reason: Protobuf.Mesh.Routing_Error[variant.value] });
  });
  events.onClientNotificationPacket.subscribe(({ message }) => print({ notice: message }));
  events.onDeviceStatus.subscribe((status) => {
    const lost = [
      Types.DeviceStatusEnum.DeviceDisconnected,
      Types.DeviceStatusEnum.DeviceReconnecting,
    ];
    if (lost.includes(status) && !leaving) report(Types.DeviceStatusEnum[status]);
  });
}

function send(text) {
  // All of this happens before the call returns; its promise waits for the Routing reply.
  sending = true;
  device.events.onMeshPacket.one(({ id }) => print({ sent: id, text }));
  const answered = device.sendText(text, "broadcast", true);
  sending = false;
  answered.catch((error) => refusal(error) === "TIMEOUT" || report(error));
}

function report(error) {
  print({ error: refusal(error) ?? error?.stack ?? String(error) });
}
