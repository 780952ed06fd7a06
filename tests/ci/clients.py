#!/usr/bin/env python3
"""Runs the official clients against a simulated node of 100 nodes, and then through the relay.

    tests/ci/clients.py MESHBEAT

MESHBEAT is the program. Node and relay have to say where they listen, serve every client, and stop
with exit code 0 on SIGTERM.
"""

import contextlib
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
FREE_PORT = ["--listen", "127.0.0.1:0"]


class Failure(Exception):
    """Why a run is not what it should be."""


def main() -> int:
    meshbeat = sys.argv[1]
    sim = [meshbeat, "sim", *FREE_PORT, "--nodes", NODES, "--traffic", "60"]
    try:
        with served("sim", sim) as node:
            clients("against the node", node)
            run = [meshbeat, "run", *FREE_PORT, "--node", node, "--state", "none"]
            with served("run", [*run, "--socket", "none"]) as relay:
                clients("through the relay", relay)
    except Failure as failure:
        print(f"clients: {failure}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def served(name: str, command: list):
    """The address on which a program serves, until it is stopped."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = threading.Timer(START_LIMIT, process.kill)
            deadline.start()
            line = process.stdout.readline()
            deadline.cancel()
            address = re.match(r"listening on (127\.0\.0\.1:\d+)\b", line)
            if address is None:
                raise Failure(f"the first line of `{name}` is {line!r}")
            yield address[1]
            process.send_signal(signal.SIGTERM)
            if (code := process.wait(STOP_LIMIT)) != 0:
                raise Failure(f"exit code of `{name}` after SIGTERM: {code}")
        except subprocess.TimeoutExpired:
            raise Failure(f"`{name}` still runs {STOP_LIMIT} s after SIGTERM") from None
        finally:
            process.kill()


def clients(how: str, address: str) -> None:
    print(f"{how}:", flush=True)
    code = subprocess.run([RUN, address, NODES], check=False).returncode
    print(f"result: clients {how}: {code}", flush=True)
    if code != 0:
        raise Failure(f"clients {how}: exit code {code}")


if __name__ == "__main__":
    sys.exit(main())
