"""A network between clients and the relay that takes and gives little at a time.

Its sockets have small buffers and it pauses, so whoever writes to it is left with the rest of what
was to be written, and whoever reads from it gets frames in pieces.
"""

import array
import contextlib
import fcntl
import random
import socket
import termios
import threading
import time

from relay_bench import MAGIC, Failure

PIECE = 700  # bytes given at once, at most
PAUSE = 0.002  # seconds after each piece; this is the network's speed, nobody waits by it


class SlowNetwork:
    """Forwards connections to an address in pieces, until it is left."""

    def __init__(self, seed: int, buffers: int):
        self.rng = random.Random(seed)
        self.buffers = buffers
        self.streams = []
        self.sockets = []

    def open(self, address: str) -> str:
        """The address to connect to instead of that one."""
        host, port = address.rsplit(":", 1)
        self.to = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets.append(self.listener)
        threading.Thread(target=self.accept, daemon=True).start()
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                relay = socket.socket()
                for side in (client, relay):
                    # Before connecting, so that the window is small from the start.
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffers)
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffers)
                relay.connect(self.to)
                self.sockets += [client, relay]
                down = Stream(relay, client, random.Random(self.rng.random()))
                self.streams.append(down)
                up = Stream(client, relay, random.Random(self.rng.random()))
                for stream in (down, up):
                    threading.Thread(target=stream.run, daemon=True).start()

    def check(self) -> str:
        """Says what every client had to bear; fails if it was not what it is here for."""
        for stream in self.streams:
            if stream.torn < 100 or 3 * stream.held > 2 * stream.total:
                raise Failure(
                    f"the network was not slow: of {stream.total} bytes {stream.held} fitted into"
                    f" the buffers, and {stream.torn} frames came in pieces"
                )
        torn = sum(stream.torn for stream in self.streams)
        held = max(stream.held for stream in self.streams)
        total = min(stream.total for stream in self.streams)
        return f"{torn} frames in pieces, at most {held} of {total} or more bytes buffered"

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Stream:
    """One direction of a connection."""

    def __init__(self, source, sink, rng):
        self.source, self.sink, self.rng = source, sink, rng
        self.total = 0
        self.held = 0  # the most bytes that the system held between writer and network
        self.torn = 0  # pieces that ended in mid-frame
        self.frames = Frames()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.held = max(self.held, written_and_not_read(self.source))
                data = self.source.recv(self.rng.randint(1, PIECE))
                if not data:
                    break
                self.total += len(data)
                self.torn += self.frames.ends_torn(data)
                self.sink.sendall(data)
                time.sleep(PAUSE)
            self.sink.shutdown(socket.SHUT_WR)


class Frames:
    """Where the frames of a stream end."""

    def __init__(self):
        self.buffer = b""

    def ends_torn(self, data: bytes) -> bool:
        self.buffer += data
        while len(self.buffer) >= 4:
            if self.buffer[:2] != MAGIC:
                self.buffer = self.buffer[1:]  # the wake-up bytes of the Python client
                continue
            end = 4 + int.from_bytes(self.buffer[2:4], "big")
            if len(self.buffer) < end:
                break
            self.buffer = self.buffer[end:]
        return bool(self.buffer)


def written_and_not_read(reader) -> int:
    """Bytes that the system holds for a reader: in its own buffer and in that of the writer, who is
    on this machine."""
    count = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, count)
    here, there = (f":{sock[1]:04X}" for sock in (reader.getsockname(), reader.getpeername()))
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1].endswith(there) and fields[2].endswith(here):
                # The writer's queue holds what the reader's system has not acknowledged.
                return count[0] + int(fields[4].split(":")[0], 16)
    return count[0]
