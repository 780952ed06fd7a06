"""Prints the texts that the official Python client receives.

    listen.py HOST PORT COUNT SECONDS

Standard output, one JSON object per line, flushed: {"nodes", "myNodeNum", "channels"} once the
client is configured (`nodes` without the own one), then {"text", "from", "to", "channel", "id"}
per received text. Exit 0 after COUNT texts, 1 with one line when they did not come within SECONDS.
"""

import json
import os
import queue
import sys
import threading

from meshtastic.mesh_interface import MeshInterface
from meshtastic.tcp_interface import TCPInterface
from pubsub import pub

TEXTS = queue.SimpleQueue()


def main() -> None:
    if len(sys.argv) != 5:
        sys.exit("usage: listen.py HOST PORT COUNT SECONDS")
    host, port, count, seconds = sys.argv[1], *map(int, sys.argv[2:])

    # The client blocks without a limit in places, so the limit is the process's.
    watchdog = threading.Timer(seconds, give_up, [count, seconds])
    watchdog.daemon = True
    watchdog.start()

    pub.subscribe(on_text, "meshtastic.receive.text")
    try:
        interface = TCPInterface(host, portNumber=port)
    except (OSError, MeshInterface.MeshInterfaceError) as error:
        sys.exit(f"listen.py: {host}:{port}: {error}")
    my_node_num = interface.myInfo.my_node_num
    nodes = len(interface.nodesByNum.keys() - {my_node_num})
    channels = len(interface.localNode.channels)
    show({"nodes": nodes, "myNodeNum": my_node_num, "channels": channels})
    for _ in range(count):
        show(TEXTS.get())
    interface.close()


def on_text(packet, interface) -> None:  # the names are the topic's
    TEXTS.put(
        {
            "text": packet["decoded"]["payload"].decode("utf-8", "replace"),
            "from": packet["from"],
            "to": packet["to"],
            "channel": packet.get("channel", 0),
            "id": packet.get("id", 0),
        }
    )


def show(line: dict) -> None:
    print(json.dumps(line, ensure_ascii=False), flush=True)


def give_up(count: int, seconds: int) -> None:
    print(f"listen.py: {count} texts did not come within {seconds} s", file=sys.stderr, flush=True)
    os._exit(1)  # the client's threads may never end


if __name__ == "__main__":
    main()
