"""A circuit breaker: after a failure, further calls fail immediately for a while."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Circuit:
    """Closed while calls succeed. A failure opens it for `seconds`; then one caller may try again.

    Shared by the threads of a process (thread-safe), not between processes.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open_until = 0.0

    @contextmanager
    def guard(self, failures: tuple[type[Exception], ...], refusal: Exception) -> Iterator[None]:
        """Run the block; raise `refusal` without running it while the circuit is open.

        Only an exception in `failures` opens it; any other means that the service has answered, and
        closes it.
        """
        if self._is_open():
            raise refusal
        open_until = 0.0
        try:
            yield
        except failures:
            open_until = self._clock() + self._seconds
            raise
        finally:
            self._set(open_until)

    def _is_open(self) -> bool:
        """Whether to fail immediately. After the pause one caller may try; others still fail."""
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
