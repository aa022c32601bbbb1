"""A circuit that does not hammer what is down: after a failure, fail at once for a moment."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Circuit:
    """Closed while calls work. One that fails opens it for `seconds`; then one may try again.

    A process-wide thing, safe between threads; each process finds out for itself.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open_until = 0.0

    @contextmanager
    def guard(self, failures: tuple[type[Exception], ...], refusal: Exception) -> Iterator[None]:
        """Run the block; raise `refusal` without running it while the circuit is open.

        Only an exception of `failures` opens it; anything else means that there was an answer.
        """
        if self._is_open():
            raise refusal
        try:
            yield
        except failures:
            self._set(self._clock() + self._seconds)
            raise
        self._set(0.0)

    def _is_open(self) -> bool:
        """Whether to fail at once. The first to find the time over tries, the others still wait."""
        with self._lock:
            now = self._clock()
            if now < self._open_until:
                return True
            if self._open_until:
                self._open_until = now + self._seconds
            return False

    def _set(self, until: float) -> None:
        with self._lock:
            self._open_until = until
