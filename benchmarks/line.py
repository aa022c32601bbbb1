"""A long, narrow line before a TCP server: limits its rate and each connection's, and delays.

    python -m benchmarks.line TARGET_PORT --rate 125e6 --each 30e6 --delay 0.04

Prints its port. Every byte towards the target passes two token buckets, the line's and its
connection's, and arrives half of the delay later; answers take the other half and are not paced. A
new connection waits one more delay, as for TCP's handshake. Slow start, loss and TLS are not
simulated.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import socket
from collections import deque
from pathlib import Path

PIECE = 64 * 1024
# How much lost time may be made up for after waking late.
SLACK_SECONDS = 0.05
# About what a connection has in flight; with more, the sender would think that bytes had left.
BUFFER = 1024 * 1024


class Bucket:
    """A token bucket of `rate` bytes per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    def take(self, size: int, now: float) -> float:
        """Take this many bytes; returns the time at which they have passed."""
        self._free_at = max(self._free_at, now - SLACK_SECONDS) + size / self._rate
        return self._free_at


class Line:
    """Listens, and connects each client to the target."""

    def __init__(self, target: int, rate: float, each: float, delay: float) -> None:
        self._target = target
        self._all = Bucket(rate)
        self._each = each
        self._half = delay / 2
        self.passed = 0

    async def serve(self) -> None:
        """Accept connections until the process ends."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            near, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._lead(near))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _lead(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        far = socket.socket()
        try:
            far.setblocking(False)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.sleep(2 * self._half)
            await loop.sock_connect(far, ("127.0.0.1", self._target))
            ways = [
                self._pump(near, far, [self._all, Bucket(self._each)]),
                self._pump(far, near, []),
            ]
            await asyncio.gather(*ways)
        except OSError:
            pass  # One side has closed; close the other too.
        finally:
            near.close()
            far.close()

    async def _pump(
        self, source: socket.socket, sink: socket.socket, buckets: list[Bucket]
    ) -> None:
        """Read at the line's rate, deliver half a delay later."""
        loop = asyncio.get_running_loop()
        waiting: deque[tuple[float, bytes]] = deque()
        come = asyncio.Event()

        async def deliver() -> None:
            while True:
                while not waiting:
                    come.clear()
                    await come.wait()
                due, data = waiting.popleft()
                await _until(due)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, data)

        delivering = asyncio.create_task(deliver())
        try:
            data = b"-"
            while data and not delivering.done():
                data = await loop.sock_recv(source, PIECE)
                now = loop.time()
                self.passed += len(data)
                passed = max([now, *(bucket.take(len(data), now) for bucket in buckets)])
                waiting.append((passed + self._half, data))
                come.set()
                await _until(passed)
            await delivering
        finally:
            delivering.cancel()


async def _until(due: float) -> None:
    left = due - asyncio.get_running_loop().time()
    if left > 0.0005:
        await asyncio.sleep(left)


def main() -> None:
    """Serve until killed, or until the parent is gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=int)
    parser.add_argument("--rate", type=float, default=125e6)
    parser.add_argument("--each", type=float, default=30e6)
    parser.add_argument("--delay", type=float, default=0.04)
    parser.add_argument("--told", type=Path, help="a file that tells the bytes passed, both ways")
    given = parser.parse_args()
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() == 1:
        return
    asyncio.run(_serve(Line(given.target, given.rate, given.each, given.delay), given.told))


async def _serve(line: Line, told: Path | None) -> None:
    telling = asyncio.create_task(_tell(line, told)) if told else None
    await line.serve()
    assert telling is None or not telling.done()


async def _tell(line: Line, told: Path) -> None:
    """Write the bytes passed to the file twice a second, atomically."""
    while True:
        await asyncio.sleep(0.5)
        new = told.with_suffix(".new")
        new.write_text(str(line.passed))
        new.replace(told)


if __name__ == "__main__":
    main()
