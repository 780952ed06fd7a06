#!/usr/bin/env python3
"""Runs the official clients against a simulated node of 100 nodes.

    tests/ci/clients.py MESHBEAT

MESHBEAT is the program. The node has to say where it listens, serve every client, and stop with
exit code 0 on SIGTERM.
"""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

RUN = Path(__file__).resolve().parent.parent / "clients/run"
NODES = "100"
START_LIMIT = 30  # seconds
STOP_LIMIT = 10


def main() -> int:
    command = [sys.argv[1], "sim", "--listen", "127.0.0.1:0", "--nodes", NODES, "--traffic", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sim:
        deadline = threading.Timer(START_LIMIT, sim.kill)
        deadline.start()
        line = sim.stdout.readline()
        deadline.cancel()
        address = re.fullmatch(r"listening on (127\.0\.0\.1:\d+)\n", line)
        if address is None:
            sim.kill()
            print(f"clients: the first line of `sim` is {line!r}", file=sys.stderr)
            return 1
        clients = subprocess.run([RUN, address[1], NODES], check=False).returncode
        sim.send_signal(signal.SIGTERM)
        try:
            stopped = sim.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            sim.kill()
            print(f"clients: `sim` still runs {STOP_LIMIT} s after SIGTERM", file=sys.stderr)
            return 1
    if stopped != 0:
        print(f"clients: exit code of `sim` after SIGTERM: {stopped}", file=sys.stderr)
    print(f"result: clients {clients}, sim {stopped}", flush=True)
    return 0 if clients == stopped == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
