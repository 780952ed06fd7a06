// The official JavaScript client (@meshtastic/core over @meshtastic/transport-node) as a test
// peer: connects, takes the whole configuration, says what it saw, sends, listens, leaves.
//
//   node client.mjs HOST PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]
//
// Standard output, one JSON object per line: {"nodes","myNodeNum","channels"} once configured
// (`nodes` without the own one), {"sent"} once a sent text was queued and acknowledged,
// {"text","from","to","channel","id"} per received text. Exit 1 with one line on any error, 75
// if the library drew a packet id whose answers it cannot read: start again.

import { parseArgs } from "node:util";
import { Types } from "@meshtastic/core";
import { configure, connect, holdsMagic, print, refusal } from "./library.mjs";

const USAGE =
  "client.mjs HOST PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]";

process.on("uncaughtException", (error) => fail(error));
process.on("unhandledRejection", (error) => fail(error));

const options = readArguments();
setTimeout(() => fail(`not done within ${options.timeout} s`), options.timeout * 1000);

const device = await connect(options.host, options.port);
const seen = watch(device);
await configured();
if (options.send !== undefined) await send(options.send);
if (options.listen > 0) await listen(options.listen);
seen.leaving = true;
await device.disconnect();
// The library's 60 s timer per sent frame would keep the process alive.
process.exit(0);

/** Collects what the library reports from the first frame on. */
function watch(device) {
  const seen = {
    leaving: false,
    nodes: new Set(),
    channels: 0,
    queueStatuses: new Map(),
    texts: [],
    onText: () => {},
  };
  const { events } = device;
  events.onNodeInfoPacket.subscribe((node) => seen.nodes.add(node.num));
  events.onChannelPacket.subscribe(() => seen.channels++);
  events.onQueueStatus.subscribe(({ meshPacketId, res }) =>
    seen.queueStatuses.set(meshPacketId, res),
  );
  events.onMessagePacket.subscribe((packet) => {
    if (packet.from === device.myNodeInfo.myNodeNum) return; // the library's echo of our own
    seen.texts.push(packet);
    seen.onText();
  });
  events.onDeviceStatus.subscribe((status) => {
    if (status === Types.DeviceStatusEnum.DeviceDisconnected && !seen.leaving) {
      fail("the node closed the connection");
    }
  });
  return seen;
}

async function configured() {
  await configure(device, fail);
  const myNodeNum = device.myNodeInfo.myNodeNum;
  if (!seen.nodes.delete(myNodeNum)) fail("configured without the own node_info");
  print({ nodes: seen.nodes.size, myNodeNum, channels: seen.channels });
  if (seen.nodes.size < options.expectNodes) {
    fail(`${seen.nodes.size} other nodes, expected at least ${options.expectNodes}`);
  }
}

/** With want_ack the library waits for the Routing reply; the queue status comes before it. */
async function send(text) {
  // The library shows what it is about to send.
  device.events.onMeshPacket.one(({ id }) => {
    if (holdsMagic(id)) fail(`packet id ${id} holds the frame magic`, 75);
  });
  const id = await device.sendText(text, "broadcast", true);
  const res = seen.queueStatuses.get(id);
  if (res !== 0) fail(`packet ${id} was acknowledged, but its queue status is ${res}`);
  print({ sent: id });
}

async function listen(count) {
  for (let heard = 0; heard < count; heard++) {
    while (seen.texts.length === 0) await new Promise((resolve) => (seen.onText = resolve));
    const { data, from, to, channel, id } = seen.texts.shift();
    print({ text: data, from, to, channel, id });
  }
}

function readArguments() {
  const number = (name, text) => {
    if (!/^\d+$/.test(text)) fail(`${name}: "${text}" is not a number`);
    return Number(text);
  };
  const string = { type: "string" };
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { send: string, "expect-nodes": string, listen: string, timeout: string },
  });
  if (positionals.length !== 2) fail(`usage: ${USAGE}`);
  return {
    host: positionals[0],
    port: number("PORT", positionals[1]),
    send: values.send,
    expectNodes: number("--expect-nodes", values["expect-nodes"] ?? "0"),
    listen: number("--listen", values.listen ?? "0"),
    timeout: number("--timeout", values.timeout ?? "60"),
  };
}

function fail(error, code = 1) {
  // A refused packet rejects with its id and the reason out of the Routing reply.
  const refused = refusal(error);
  const reason = refused ? `packet ${error.id}: ${refused}` : (error?.message ?? error);
  process.stderr.write(`client.mjs: ${reason}\n`);
  process.exit(code);
}
