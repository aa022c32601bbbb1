"""A TCP proxy that misbehaves on demand: before PostgreSQL, Redis, S3, SMTP or anything else."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
PIECE = 64 * 1024
# SO_LINGER with zero seconds: closing the socket sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class _Link:
    """One connection through the proxy: the client's end, and the target's if it is connected."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.ends = [near]
        self.is_frozen = False
        self.is_waiting = False
        self.passed = 0

    def reset(self) -> None:
        for end in self.ends:
            connection = end.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()


class Proxy:
    """Forwards 127.0.0.1:`port` to a target, in one thread; every method acts immediately."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.held = threading.Event()  # set once a connection is held up, or a byte swallowed
        self.waits = 0  # the number of connections that have sent data into a black hole
        self._links: set[_Link] = set()
        self._latency = 0.0
        self._limit: int | None = None
        self._is_black = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listen()

    @classmethod
    def before(cls, url: str) -> "Proxy":
        """A proxy before the host and port of a URL."""
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        return cls(parts.hostname, parts.port)

    def instead(self, url: str) -> str:
        """The same URL, leading through this proxy."""
        host, port = self.target
        return url.replace(f"{host}:{port}", f"127.0.0.1:{self.port}", 1)

    # -- faults ---------------------------------------------------------------------------------

    def up(self) -> None:
        """Let everything pass. Black-holed connections stay dead, as after a failover."""
        self._set(latency=0.0, limit=None, is_black=False)
        self._on_loop(self._flowing.set)
        self._listen()

    def down(self) -> None:
        """Be down: new connections are refused, existing ones reset."""
        self._on_loop(self._deafen)
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are accepted."""
        self._on_loop(lambda: [link.reset() for link in list(self._links)])

    def blackhole(self) -> None:
        """Accept new connections but never answer; existing ones fall silent permanently."""
        self.waits = 0
        self._set(is_black=True)
        self._on_loop(self._freeze)

    def hold(self) -> None:
        """Hold all bytes back until `up()`, which lets them pass. Nothing is lost."""
        self.held.clear()
        self._on_loop(self._flowing.clear)

    def slow(self, seconds: float) -> None:
        """Delay every chunk of data by this much, in each direction."""
        self._set(latency=seconds)

    def cut_after(self, count: int) -> None:
        """Reset each connection after this many more bytes, both directions together."""
        self._set(limit=count)
        self._on_loop(lambda: [setattr(link, "passed", 0) for link in self._links])

    def close(self) -> None:
        """End everything."""

        async def end() -> None:
            self._deafen()
            for link in list(self._links):
                link.reset()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- implementation ------------------------------------------------------------------------

    def _listen(self) -> None:
        def listen() -> None:
            self._flowing.set()
            if self._accepting is None:
                if self._listener.fileno() < 0:
                    self._listener = socket.create_server(("127.0.0.1", self.port))
                    self._listener.setblocking(False)
                self._accepting = self._start(self._accept())

        self._on_loop(listen)

    def _deafen(self) -> None:
        """Stop listening. `up()` binds the port again: not every kernel lets a listener that was
        shut down listen once more."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _freeze(self) -> None:
        for link in self._links:
            link.is_frozen = True

    def _set(
        self,
        *,
        latency: float | None = None,
        limit: int | None = -1,
        is_black: bool | None = None,
    ) -> None:
        self._latency = self._latency if latency is None else latency
        self._limit = self._limit if limit == -1 else limit
        self._is_black = self._is_black if is_black is None else is_black

    async def _accept(self) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(self._listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        near_in, near_out = await asyncio.open_connection(sock=connection)
        link = _Link(near_out)
        self._links.add(link)
        try:
            if self._is_black:
                link.is_frozen = True
                await self._pump(link, near_in, near_out)
                return
            await self._until_flowing()
            far_in, far_out = await asyncio.open_connection(*self.target)
            link.ends.append(far_out)
            ways = [
                self._start(self._pump(link, near_in, far_out)),
                self._start(self._pump(link, far_in, near_out)),
            ]
            await asyncio.wait(ways)
        except OSError:
            pass  # The target is not there: the client sees its connection end.
        finally:
            self._links.discard(link)
            for end in link.ends:
                end.transport.abort()

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        try:
            while data := await source.read(PIECE):
                if not await self._may_pass(link, len(data)):
                    continue
                sink.write(data)
                await sink.drain()
            if not link.is_frozen and sink.can_write_eof():
                sink.write_eof()
        except OSError:
            # A process killed with unread data resets its connection. Pass the reset on, or an
            # orphaned session would be left on the other side.
            if not link.is_frozen:
                link.reset()

    async def _may_pass(self, link: _Link, size: int) -> bool:
        await self._until_flowing()
        if self._latency:
            await asyncio.sleep(self._latency)
        if link.is_frozen:
            self.waits += not link.is_waiting
            link.is_waiting = True
            self.held.set()
            return False
        link.passed += size
        if self._limit is not None and link.passed > self._limit:
            link.reset()
            return False
        return True

    async def _until_flowing(self) -> None:
        if not self._flowing.is_set():
            self.held.set()
            await self._flowing.wait()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _on_loop(self, act: Callable[[], T]) -> T:
        async def call() -> T:
            return act()

        return self._run(call())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
