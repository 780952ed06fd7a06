#!/usr/bin/env python3
"""What the apps of Android and iOS say to a node, played by scripts on raw sockets.

    tests/.setup/venv/bin/python tests/ci/relay_phones.py MESHBEAT [SEED]

The node is asked first, alone, for both of its handshakes; through the relay each has to be the
same, frame for frame, byte for byte. Then come heartbeats, admin messages, a node that is killed, a
goodbye, and at last the Python client that changes a setting and looks at it at once.
"""

import subprocess
import sys
import time
from typing import NamedTuple

from meshtastic.protobuf import admin_pb2, mesh_pb2, portnums_pb2
from relay_bench import PYTHON, Failure, Node, Raw, kind, main, relay

USAGE = "relay_phones.py MESHBEAT [SEED]"
CLI = PYTHON.parent / "meshtastic"

CONFIG, NODES = 69420, 69421
ANSWER = 5  # seconds; iOS gives the connection up if nothing comes that long after a heartbeat
LIMIT = 30

# What a node tells of itself, in this order; in brackets what some do not have.
ORDER = [
    "my_info",
    "deviceuiConfig",  # (2.5.18)
    "node_info",
    "metadata",
    "region_presets",  # (2.8)
    "channel",
    "config",
    "moduleConfig",
    "fileInfo",
    "config_complete_id",
]
NEEDED = {"my_info", "node_info", "metadata", "channel", "config", "moduleConfig"}
NOT_AUTHORIZED = mesh_pb2.Routing.Error.NOT_AUTHORIZED


def test(meshbeat: str, seed: int):
    options = ["--seed", str(seed), "--nodes", "80"]
    with Node(meshbeat, "127.0.0.1:0", *options) as node:
        address = node.address()
        with Raw(address, "node itself") as raw:
            alone = {nonce: handshake(raw, nonce) for nonce in (CONFIG, NODES)}
            check_handshakes(alone)
            raw.send(disconnect=True)
        with relay(meshbeat, address, "--listen", "127.0.0.1:0,no-admin") as program:
            full, no_admin = program.addresses(2)
            with Raw(full, "witness") as witness:
                handshake(witness, CONFIG)
                yield android(full, alone)
                with Raw(full, "iOS") as phone:
                    yield ios(phone, alone)
                    node.kill()
                    away(phone, witness)
                    with Node(meshbeat, address, *options) as again:
                        again.address()
                        yield back(phone, witness)
                        goodbye(phone, witness)
                        yield restricted(no_admin, alone)
                        yield settings(full)
                        check_record(again)
            program.stop()
        check_record(node)


def android(address: str, alone: dict) -> str:
    """69420, then 69421 on the same connection; heartbeats in the middle of another handshake; then
    one every 30 s, here without the wait. Some have nonce 1."""
    with Raw(address, "Android") as phone:
        for nonce in (CONFIG, NODES):
            check_same(phone, alone[nonce], handshake(phone, nonce))
        start = len(phone.frames)
        phone.send(want_config_id=CONFIG)
        for _ in range(3):
            phone.send(heartbeat=mesh_pb2.Heartbeat())
        check_same(phone, alone[CONFIG], told(phone, CONFIG, start))
        answers = lambda: [kind(frame) for _, frame in phone.frames[start:]].count("queueStatus")
        phone.wait_for("the answers to 3 heartbeats", lambda: answers() >= 3, ANSWER)
        slowest = max(heartbeat(phone, nonce) for nonce in (0, 1) * 10)
        if any(kind(frame) == "config" for frame in after(phone, CONFIG)):
            raise Failure(f"{phone.name}: configuration that nobody asked for")
    slowest = f"slowest {1000 * slowest:.1f} ms"
    return f"Android: both handshakes as from the node, 20 heartbeats, {slowest}"


def ios(phone: Raw, alone: dict) -> str:
    """A heartbeat before anything else, then 69420, and the time as soon as that is complete."""
    first = heartbeat(phone)
    if [kind(frame) for _, frame in phone.frames] != ["queueStatus"]:
        raise Failure(f"{phone.name}: more than one answer\n{phone.last_frames()}")
    check_same(phone, alone[CONFIG], handshake(phone, CONFIG))
    own = next(frame.my_info.my_node_num for _, frame in phone.frames if kind(frame) == "my_info")
    took = set_time(phone, own)
    check_same(phone, alone[NODES], handshake(phone, NODES))
    heartbeat(phone)
    spans = f"answered after {1000 * first:.1f} ms"
    return f"iOS: heartbeat first, {spans}, both handshakes, time set after {1000 * took:.1f} ms"


def away(phone: Raw, witness: Raw) -> None:
    """The node has been killed: both are told once, and heartbeats are answered all the same."""
    for client in (phone, witness):
        notice(client, "away", 1)
        for _ in range(5):
            heartbeat(client)
    # And who comes now is served from memory.
    with Raw(phone.address, "late iOS") as late:
        heartbeat(late)
        start = time.monotonic()
        handshake(late, CONFIG)
        handshake(late, NODES)
        if (took := time.monotonic() - start) > 2:
            raise Failure(f"{late.name}: its handshakes took {took:.1f} s without the node")


def back(phone: Raw, witness: Raw) -> str:
    for client in (phone, witness):
        notice(client, "back", 2)
        heartbeat(client)
        if len(client.notices) != 2:
            raise Failure(f"{client.name}: {client.notices}")
    return f"node killed and back: {phone.notices}"


def goodbye(phone: Raw, witness: Raw) -> None:
    """It ends this client, and no other, and not the connection to the node."""
    phone.send(disconnect=True)
    phone.wait_closed(ANSWER)
    heartbeat(witness)
    with Raw(phone.address, "next iOS") as phone:
        handshake(phone, CONFIG)


def restricted(address: str, alone: dict) -> str:
    """A listener without admin rights: the time may be set, the owner may not; no secrets."""
    with Raw(address, "iOS without rights") as phone:
        frames = handshake(phone, CONFIG).frames
        if [kind(frame) for frame in frames] != [kind(frame) for frame in alone[CONFIG].frames]:
            raise Failure(f"{phone.name}: another handshake\n{phone.last_frames()}")
        keys = [frame.config.security.private_key for frame in frames if kind(frame) == "config"]
        if any(keys):
            raise Failure(f"{phone.name}: was told the private key")
        own = frames[0].my_info.my_node_num
        set_time(phone, own)
        start = len(phone.frames)
        owner = mesh_pb2.User(long_name="Mallory", short_name="M")
        about = admin(phone, own, admin_pb2.AdminMessage(set_owner=owner))
        found = phone.next(
            "the refusal", lambda frame: routing_error(frame, about) is not None, start, ANSWER
        )
        if (error := routing_error(phone.frames[found][1], about)) != NOT_AUTHORIZED:
            raise Failure(f"{phone.name}: refused with {error}")
    return "without admin rights: time set, owner refused, no private key"


def settings(address: str) -> str:
    """A change is shown to who asks at once."""
    name = "relayed"
    cli(address, "--ch-set", "name", name, "--ch-index", "0")
    expect(cli(address, "--info"), f'"name": "{name}"')
    owner = "Relay Owner"
    cli(address, "--set-owner", owner)
    expect(cli(address, "--info"), f"Owner: {owner} ")
    return "Python: --ch-set and --set-owner, each shown by the --info behind it"


class Handshake(NamedTuple):
    """What a client is told of the node, from the first frame to `config_complete_id`."""

    frames: list
    payloads: list


def handshake(client: Raw, nonce: int) -> Handshake:
    start = len(client.frames)
    client.send(want_config_id=nonce)
    return told(client, nonce, start)


def told(client: Raw, nonce: int, start: int) -> Handshake:
    """The handshake among the frames from `start` on."""
    complete = lambda frame: frame.config_complete_id == nonce
    end = client.next(f"config_complete_id {nonce}", complete, start, LIMIT)
    begins = lambda frame: kind(frame) in ("my_info", "node_info")
    first = client.next("the first frame", begins, start, LIMIT)
    frames = [frame for _, frame in client.frames[first : end + 1]]
    return Handshake(frames, client.payloads[first : end + 1])


def check_handshakes(alone: dict) -> None:
    """What is compared with is what it should be."""
    kinds = [kind(frame) for frame in alone[CONFIG].frames]
    if kinds != sorted(kinds, key=ORDER.index) or not NEEDED <= set(kinds):
        raise Failure(f"node: the order of its handshake is {kinds}")
    if (kinds.count("channel"), kinds.count("node_info")) != (8, 1):
        raise Failure(f"node: {kinds.count('channel')} channels, {kinds.count('node_info')} nodes")
    *nodes, _ = alone[NODES].frames
    numbers = [frame.node_info.num for frame in nodes if kind(frame) == "node_info"]
    own = alone[CONFIG].frames[0].my_info.my_node_num
    if numbers[:1] != [own] or len(set(numbers)) != 81 or len(numbers) != len(nodes):
        raise Failure(f"node: its second handshake is {[kind(frame) for frame in nodes]}")


def check_same(client: Raw, node: Handshake, relay: Handshake) -> None:
    """The relay's handshake is the node's, and nothing comes between its frames."""
    for index, (one, other) in enumerate(zip(node.payloads, relay.payloads)):
        if one != other:
            raise Failure(f"{client.name}: frame {index}: node {one.hex()}, relay {other.hex()}")
    if len(node.payloads) != len(relay.payloads):
        counts = len(relay.payloads), len(node.payloads)
        raise Failure(f"{client.name}: frames: {counts[0]}, from the node {counts[1]}")


def heartbeat(client: Raw, nonce: int = 0) -> float:
    """Its answer has to come in time and to have room; returns how long it took."""
    start = len(client.frames)
    sent = client.send(heartbeat=mesh_pb2.Heartbeat(nonce=nonce))
    plain = lambda frame: kind(frame) == "queueStatus" and frame.queueStatus.mesh_packet_id == 0
    index = client.next("the answer to a heartbeat", plain, start, ANSWER)
    came, frame = client.frames[index]
    if frame.queueStatus.free == 0 or frame.queueStatus.res != 0:
        raise Failure(f"{client.name}: heartbeat answered with {frame}")
    return came - sent


def set_time(client: Raw, own: int) -> float:
    """Its queue status has to come, and no refusal behind it; returns how long that took."""
    start = len(client.frames)
    sent = time.monotonic()
    about = admin(client, own, admin_pb2.AdminMessage(set_time_only=int(time.time())))
    status = lambda frame: frame.queueStatus.mesh_packet_id == about
    index = client.next("the queue status of set_time_only", status, start, ANSWER)
    came, frame = client.frames[index]
    if frame.queueStatus.res != 0:
        raise Failure(f"{client.name}: set_time_only: {frame}")
    heartbeat(client)  # what the relay itself has to say about it is there before the answer
    if errors := [frame for _, frame in client.frames[start:] if routing_error(frame, about)]:
        raise Failure(f"{client.name}: set_time_only was refused: {errors}")
    return came - sent


def admin(client: Raw, own: int, message) -> int:
    """Sends an admin message to the node itself; returns its packet id."""
    admin.ids += 1
    data = mesh_pb2.Data(
        portnum=portnums_pb2.PortNum.ADMIN_APP, payload=message.SerializeToString()
    )
    client.send(packet=mesh_pb2.MeshPacket(to=own, id=admin.ids, decoded=data))
    return admin.ids


admin.ids = 0x1000


def routing_error(frame, about: int):
    """The reason in the Routing reply about a packet; None if the frame is none."""
    data = frame.packet.decoded
    if data.portnum != portnums_pb2.PortNum.ROUTING_APP or data.request_id != about:
        return None
    return mesh_pb2.Routing.FromString(data.payload).error_reason


def notice(client: Raw, word: str, count: int) -> None:
    """As many notices in all, and the last says this."""
    what = f"the notice that the node is {word}"
    client.wait_for(what, lambda: len(client.notices) >= count, LIMIT)
    if word not in client.notices[-1]:
        raise Failure(f"{client.name}: {client.notices} where the node is {word}")


def after(client: Raw, nonce: int) -> list:
    """The frames behind a handshake."""
    frames = [frame for _, frame in client.frames]
    end = max(index for index, frame in enumerate(frames) if frame.config_complete_id == nonce)
    return frames[end + 1 :]


def check_record(node: Node) -> None:
    """A heartbeat with nonce 1 makes a node speak to the whole mesh."""
    for line in node.err:
        if "Heartbeat" in line and "nonce: 0 " not in line:
            raise Failure(f"the node was sent it: {line}")


def cli(address: str, *options) -> str:
    command = [str(CLI), "--host", address, *options]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{command[3:]}: not done within 90 s") from None
    if done.returncode != 0:
        raise Failure(f"{command[3:]}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def expect(output: str, words: str) -> None:
    if words not in output:
        raise Failure(f"no {words!r} in\n{output[:3000]}")


if __name__ == "__main__":
    sys.exit(main("relay_phones", USAGE, test))
