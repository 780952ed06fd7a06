"""What the tests of the relay are written with: programs that are waited for by what they print,
talkers around the official clients, and a client on a raw socket that sees every byte.

Nothing here sleeps to let something happen: who waits, waits for a line, a frame or a condition,
and fails with what it was waiting for.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from meshtastic.protobuf import mesh_pb2, portnums_pb2

TESTS = Path(__file__).resolve().parent.parent
CLIENTS = TESTS / "clients"
SETUP = TESTS / ".setup"
PYTHON = SETUP / "venv/bin/python"

START_LIMIT = 30  # seconds; a program has said where it listens, a talker that it is ready
STOP_LIMIT = 15

MAGIC = b"\x94\xc3"


class Failure(Exception):
    """Why a run is not what it should be."""


class Program:
    """A process whose output is read line by line as it comes."""

    def __init__(self, name: str, *command, stdin=subprocess.DEVNULL):
        self.name = name
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        self.out, self.err = [], []
        self.changed = threading.Condition()
        self.readers = [
            threading.Thread(target=self._read, args=(stream, handle), daemon=True)
            for stream, handle in [
                (self.process.stdout, self.handle_out),
                (self.process.stderr, self.handle_err),
            ]
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, handle) -> None:
        for line in stream:
            with self.changed:
                handle(line.rstrip("\n"))
                self.changed.notify_all()

    def handle_out(self, line: str) -> None:
        self.out.append(line)

    def handle_err(self, line: str) -> None:
        self.err.append(line)

    def wait_for(self, what: str, condition, limit: float):
        """The first true value of `condition`, which is asked again whenever a line has come."""
        deadline = time.monotonic() + limit
        with self.changed:
            while not (value := condition()):
                ended = self.process.poll() is not None and not any(
                    reader.is_alive() for reader in self.readers
                )
                left = deadline - time.monotonic()
                if ended or left <= 0:
                    why = f"exit code {self.process.returncode}" if ended else f"{limit} s"
                    raise Failure(f"{self.name}: {what} did not come: {why}\n{self.last_words()}")
                # The end of a process notifies nobody.
                self.changed.wait(min(left, 0.2))
            return value

    def address(self) -> str:
        """Where it says that it listens."""
        return self.addresses(1)[0]

    def addresses(self, count: int) -> list:
        """Where it says that it listens, in that order."""

        def said():
            found = (re.match(r"listening on (127\.0\.0\.1:\d+)", line) for line in self.out)
            addresses = [match[1] for match in found if match]
            return addresses if len(addresses) >= count else None

        return self.wait_for(f"{count} × `listening on`", said, START_LIMIT)

    def kill(self) -> None:
        self.process.kill()
        self.finish()

    def stop(self) -> None:
        """It has to end by itself on SIGTERM, with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        self.ended()

    def ended(self) -> None:
        try:
            code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name}: still runs {STOP_LIMIT} s after its end") from None
        self.finish()
        if code != 0:
            raise Failure(f"{self.name}: exit code {code}\n{self.last_words()}")

    def finish(self) -> None:
        """All that it wrote has been read."""
        self.process.wait()
        for reader in self.readers:
            reader.join()

    def last_words(self) -> str:
        return "".join(f"      {line[:200]}\n" for line in [*self.out[-10:], *self.err[-20:]])

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.finish()


class Node(Program):
    """The simulated node, with its record of what it does on standard error. It can be killed at
    the moment when that record says something."""

    def __init__(self, meshbeat: str, listen: str, *options, fatal=None):
        self.fatal, self.left = fatal or (None, 0)
        super().__init__("sim", meshbeat, "sim", "-vv", "--listen", listen, *options)

    def kill_at(self, record: re.Pattern, times: int) -> None:
        """SIGKILL when the record holds this so many times from now on."""
        with self.changed:
            self.fatal, self.left = record, times

    def handle_err(self, line: str) -> None:
        super().handle_err(line)
        if self.fatal is not None and self.fatal.search(line):
            self.left -= 1
            if self.left == 0:
                self.process.kill()


def relay(meshbeat: str, node: str, *options) -> Program:
    """A relay for that node that keeps nothing on disk and leaves no socket behind."""
    return Program(
        "run",
        *(meshbeat, "run", "-v", "--node", node, "--listen", "127.0.0.1:0"),
        *("--state", "none", "--socket", "none", *options),
    )


class Talker(Program):
    """An official client that says what it sees and sends what it is told to; see py/talker.py."""

    def __init__(self, name: str, *command):
        self.events = []
        self.faults = []
        super().__init__(name, *command, stdin=subprocess.PIPE)

    def handle_out(self, line: str) -> None:
        super().handle_out(line)
        try:
            event = json.loads(line)
        except ValueError:
            event = {"error": line}
        self.events.append(event)
        if "error" in event:
            self.faults.append(event["error"])

    def handle_err(self, line: str) -> None:
        super().handle_err(line)
        self.faults.append(line)

    def all(self, kind: str) -> list:
        """Its events of one kind, in order."""
        with self.changed:
            return [event for event in self.events if kind in event]

    def ready(self) -> dict:
        """Its `ready`; from here on there is nothing that it may complain about."""
        return self.wait_for("`ready`", lambda: next(iter(self.all("ready")), None), START_LIMIT)

    def send(self, text: str) -> None:
        self.command(f"send {text}")

    def quit(self) -> None:
        self.command("quit")
        self.ended()

    def command(self, line: str) -> None:
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Failure(f"{self.name}: {error}\n{self.last_words()}") from error

    def check(self) -> None:
        """It still runs and has seen no fault."""
        if self.faults or self.process.poll() is not None:
            code = self.process.poll()
            raise Failure(f"{self.name}: {self.faults}, exit code {code}\n{self.last_words()}")


def python(address: str, name: str) -> Talker:
    return Talker(f"python {name}", PYTHON, CLIENTS / "py/talker.py", *address.rsplit(":", 1))


def javascript(address: str, name: str) -> Talker:
    return Talker(f"javascript {name}", "node", CLIENTS / "js/talker.mjs", *address.rsplit(":", 1))


def rust(address: str, name: str) -> Talker:
    return Talker(f"rust {name}", SETUP / "rust-client/debug/talker", address)


def talkers(address: str, each: int) -> list:
    """So many around each of the official clients."""
    clients = (python, javascript, rust)
    return [client(address, f"{n}") for n in range(1, each + 1) for client in clients]


class Raw:
    """A client without a library: every frame as it came, and when."""

    def __init__(self, address: str, name: str = "raw"):
        host, port = address.rsplit(":", 1)
        self.address, self.name = address, name
        self.socket = socket.create_connection((host, int(port)), START_LIMIT)
        self.socket.settimeout(None)
        self.frames = []  # (seconds, FromRadio)
        self.payloads = []
        self.texts = []  # (from, id, text)
        self.notices = []
        self.closed = None  # how the connection ended
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        buffer = b""
        try:
            while data := self.socket.recv(65536):
                buffer += data
                with self.changed:
                    buffer = self._take(buffer)
                    self.changed.notify_all()
            closed = "closed" if not buffer else f"closed in mid-frame: {buffer.hex()}"
        except (OSError, ValueError) as error:
            closed = repr(error)
        with self.changed:
            self.closed = closed
            self.changed.notify_all()

    def _take(self, buffer: bytes) -> bytes:
        """A relay writes frames and nothing else; there is nothing to search for."""
        while len(buffer) >= 4:
            length = int.from_bytes(buffer[2:4], "big")
            if buffer[:2] != MAGIC or length > 512:
                raise ValueError(f"no frame: {buffer[:16].hex()}")
            if len(buffer) < 4 + length:
                break
            payload, buffer = buffer[4 : 4 + length], buffer[4 + length :]
            self.payloads.append(payload)
            frame = mesh_pb2.FromRadio.FromString(payload)
            self.frames.append((time.monotonic(), frame))
            if text := text_of(frame):
                self.texts.append(text)
            if kind(frame) == "clientNotification":
                self.notices.append(frame.clientNotification.message)
        return buffer

    def send(self, **variant) -> float:
        """Sends a ToRadio; returns when."""
        payload = mesh_pb2.ToRadio(**variant).SerializeToString()
        sent = time.monotonic()
        self.socket.sendall(MAGIC + len(payload).to_bytes(2, "big") + payload)
        return sent

    def wait_for(self, what: str, condition, limit: float):
        """The first true value of `condition`, which is asked again whenever a frame has come."""
        deadline = time.monotonic() + limit
        with self.changed:
            while not (value := condition()):
                left = deadline - time.monotonic()
                if self.closed is not None or left <= 0:
                    why = self.closed or f"{limit} s"
                    raise Failure(f"{self.name}: {what} did not come: {why}\n{self.last_frames()}")
                self.changed.wait(left)
            return value

    def next(self, what: str, matches, start: int, limit: float) -> int:
        """The index of the first frame from `start` on that `matches`."""

        def found():
            for index in range(start, len(self.frames)):
                if matches(self.frames[index][1]):
                    return (index,)
            return None

        return self.wait_for(what, found, limit)[0]

    def wait_closed(self, limit: float) -> None:
        """The other side has to end the connection, and not in mid-frame."""
        self.reader.join(limit)
        if self.closed != "closed":
            raise Failure(f"{self.name}: {self.closed or 'still open'}\n{self.last_frames()}")

    def configured(self, nonce: int) -> int:
        """The index of the frame that completes the handshake with that nonce."""
        return self.next(
            f"config_complete_id {nonce}",
            lambda frame: frame.config_complete_id == nonce,
            0,
            START_LIMIT,
        )

    def last_frames(self) -> str:
        return "".join(f"      {payload.hex()}\n" for payload in self.payloads[-20:])

    def close(self) -> None:
        # Closing alone would not wake the reader.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.reader.join()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def text_of(frame):
    """(from, id, text) of a FromRadio that brings one."""
    packet = frame.packet
    if packet.decoded.portnum != portnums_pb2.PortNum.TEXT_MESSAGE_APP:
        return None
    return (getattr(packet, "from"), packet.id, packet.decoded.payload.decode("utf-8", "replace"))


def kind(frame) -> str:
    """The name of its variant."""
    if (name := frame.WhichOneof("payload_variant")) is not None:
        return name
    # The Python client does not know it yet: field 19.
    return "region_presets" if frame.SerializeToString()[:2] == b"\x9a\x01" else "unknown"


def main(name: str, usage: str, test) -> int:
    """Runs a test with the path of the program and the seed. Prints its results, or the reason and
    the seed."""
    if len(sys.argv) not in (2, 3):
        print(f"usage: {usage}", file=sys.stderr)
        return 2
    seed = int(sys.argv[2]) if len(sys.argv) == 3 else 1
    start = time.monotonic()
    try:
        for line in test(sys.argv[1], seed):
            print(f"result: {name}: {line}, {time.monotonic() - start:.0f} s", flush=True)
    except Failure as failure:
        print(f"{name}: seed {seed}: {failure}", file=sys.stderr)
        return 1
    return 0
