// The official JavaScript client (@meshtastic/core over @meshtastic/transport-node) as a test
// peer: connects, takes the whole configuration, says what it saw, sends, listens, leaves.
//
//   node client.mjs HOST PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]
//
// Standard output, one JSON object per line: {"nodes","myNodeNum","channels"} once configured
// (`nodes` without the own one), {"sent"} once a sent text was queued and acknowledged,
// {"text","from","to","channel","id"} per received text. Exit 1 with one line on any error, 75
// if the library drew a packet id whose answers it cannot read: start again.

import { randomInt, webcrypto } from "node:crypto";
import { parseArgs } from "node:util";
import { MeshDevice, Protobuf, Types } from "@meshtastic/core";
import { TransportNode } from "@meshtastic/transport-node";

const USAGE =
  "client.mjs HOST PORT [--send TEXT] [--expect-nodes N] [--listen COUNT] [--timeout S]";

// The library uses the global that Node.js has only since version 19.
globalThis.crypto ??= webcrypto;

process.on("uncaughtException", (error) => fail(error));
process.on("unhandledRejection", (error) => fail(error));

const options = readArguments();
setTimeout(() => fail(`not done within ${options.timeout} s`), options.timeout * 1000);

const device = await connect();
const seen = watch(device);
await configure();
if (options.send !== undefined) await send(options.send);
if (options.listen > 0) await listen(options.listen);
seen.leaving = true;
await device.disconnect();
// The library's 60 s timer per sent frame would keep the process alive.
process.exit(0);

async function connect() {
  const transport = await TransportNode.create(options.host, options.port);
  let configId;
  do configId = randomInt(1, 2 ** 32);
  while (holdsMagic(configId));
  const device = new MeshDevice(transport, configId);
  device.log.settings.type = "hidden"; // it writes to standard output
  return device;
}

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

async function configure() {
  await new Promise((resolve) => {
    // The library takes any config_complete_id for its own; the test does not.
    device.events.onFromRadio.subscribe(({ payloadVariant: { case: variant, value } }) => {
      if (variant === "configCompleteId" && value !== device.configId) {
        fail(`config_complete_id is ${value}, asked for ${device.configId}`);
      }
    });
    device.events.onDeviceStatus.subscribe((status) => {
      if (status === Types.DeviceStatusEnum.DeviceConfigured) resolve();
    });
    // Its promise is settled by a timer after 60 s, not by the configuration.
    device.configure().catch((error) => fail(error));
  });
  const myNodeNum = device.myNodeInfo.myNodeNum;
  if (myNodeNum === 0) fail("configured without my_info");
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

/**
 * The library takes `94 C3` inside a payload for the start of another frame and drops the payload.
 * An id stands in payloads as a varint and as four bytes, little endian.
 */
function holdsMagic(id) {
  const fixed = Buffer.alloc(4);
  fixed.writeUInt32LE(id);
  const varint = [];
  for (let rest = id; rest > 0; rest = Math.floor(rest / 128)) {
    varint.push((rest % 128) | (rest >= 128 ? 128 : 0));
  }
  return [fixed, Buffer.from(varint)].some((bytes) => bytes.includes("94c3", 0, "hex"));
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

function print(object) {
  process.stdout.write(`${JSON.stringify(object)}\n`);
}

function fail(error, code = 1) {
  // A refused packet rejects with its id and the reason out of the Routing reply.
  const refused = error?.id !== undefined && error.error !== undefined;
  const reason = refused
    ? `packet ${error.id}: ${Protobuf.Mesh.Routing_Error[error.error]}`
    : (error?.message ?? error);
  process.stderr.write(`client.mjs: ${reason}\n`);
  process.exit(code);
}
