"""The official Python client as a talker: it connects once, says what it sees, and sends what it is
told to.

    talker.py HOST PORT

Standard input: `send TEXT`, `quit`. Standard output, one JSON object per line, as every talker:
{"ready", "nodes"} once configured (the own node number, and how many other nodes there are),
{"sent", "text"} when the library has a text (its packet id), {"answered", "reason"} per Routing
reply (the id it is about), {"received", "from", "id"} per text, {"notice"} per notification,
{"error"} for what no user should ever see: a socket error, a reconnect, an exception, an error that
the library logs.
"""

import json
import logging
import os
import sys
import threading

from meshtastic.mesh_interface import MeshInterface
from meshtastic.tcp_interface import TCPInterface
from pubsub import pub


class Interface(TCPInterface):
    """The library's own, which says when it connects again."""

    def _reconnect(self) -> None:
        show({"error": "the library reconnects"})
        super()._reconnect()


class Errors(logging.Handler):
    """What the library logs as an error."""

    def emit(self, record: logging.LogRecord) -> None:
        show({"error": record.getMessage()})


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: talker.py HOST PORT")
    logging.getLogger().addHandler(Errors(logging.ERROR))
    threading.excepthook = lambda args: show({"error": f"{args.thread}: {args.exc_value!r}"})
    pub.subscribe(on_text, "meshtastic.receive.text")
    pub.subscribe(on_routing, "meshtastic.receive.routing")
    pub.subscribe(on_notification, "meshtastic.clientNotification")
    try:
        interface = Interface(sys.argv[1], portNumber=int(sys.argv[2]))
    except (OSError, MeshInterface.MeshInterfaceError) as error:
        show({"error": f"{error!r}"})
        sys.exit(1)
    pub.subscribe(on_lost, "meshtastic.connection.lost")
    own = interface.myInfo.my_node_num
    show({"ready": own, "nodes": len(interface.nodesByNum.keys() - {own})})
    for line in sys.stdin:
        command, _, text = line.rstrip("\n").partition(" ")
        if command == "quit":
            break
        packet = interface.sendText(text, wantAck=True)
        show({"sent": packet.id, "text": text})
    pub.unsubscribe(on_lost, "meshtastic.connection.lost")
    interface.close()


# The names of the parameters are the topic's.


def on_text(packet, interface) -> None:
    text = packet["decoded"]["payload"].decode("utf-8", "replace")
    show({"received": text, "from": packet["from"], "id": packet.get("id", 0)})


def on_routing(packet, interface) -> None:
    decoded = packet["decoded"]
    reason = decoded["routing"].get("errorReason", "NONE")
    show({"answered": decoded.get("requestId", 0), "reason": reason})


def on_notification(notification, interface) -> None:
    show({"notice": notification.message})


def on_lost(interface) -> None:
    show({"error": "the library has lost the connection"})


def show(event: dict) -> None:
    """In one write, for several threads have something to say."""
    os.write(sys.stdout.fileno(), f"{json.dumps(event, ensure_ascii=False)}\n".encode())


if __name__ == "__main__":
    main()
