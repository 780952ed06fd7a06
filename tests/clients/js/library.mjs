// What the programs around the official JavaScript client have in common.

import { randomInt, webcrypto } from "node:crypto";
import { MeshDevice, Protobuf, Types } from "@meshtastic/core";
import { TransportNode } from "@meshtastic/transport-node";

// The library uses the global that Node.js has only since version 19.
globalThis.crypto ??= webcrypto;

export async function connect(host, port) {
  const transport = await TransportNode.create(host, port);
  let configId;
  do configId = randomInt(1, 2 ** 32);
  while (holdsMagic(configId));
  const device = new MeshDevice(transport, configId);
  device.log.settings.type = "hidden"; // it writes to standard output
  return device;
}

/** Takes the whole configuration; `fail` is told what goes wrong. */
export async function configure(device, fail) {
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
  if (device.myNodeInfo.myNodeNum === 0) fail("configured without my_info");
}

/** Why the library rejected a packet, in words; `undefined` if the error is of another kind. */
export function refusal(error) {
  return Protobuf.Mesh.Routing_Error[error?.error];
}

/**
 * The library takes `94 C3` inside a payload for the start of another frame and drops the payload.
 * An id stands in payloads as a varint and as four bytes, little endian.
 */
export function holdsMagic(id) {
  const fixed = Buffer.alloc(4);
  fixed.writeUInt32LE(id);
  const varint = [];
  for (let rest = id; rest > 0; rest = Math.floor(rest / 128)) {
    varint.push((rest % 128) | (rest >= 128 ? 128 : 0));
  }
  return [fixed, Buffer.from(varint)].some((bytes) => bytes.includes("94c3", 0, "hex"));
}

export function print(object) {
  process.stdout.write(`${JSON.stringify(object)}\n`);
}
