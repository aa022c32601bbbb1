"""Call one function on many items in parallel, where each call waits for storage."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

# Requests to storage that one call keeps in flight; each waits for the network, not for the CPU.
IN_FLIGHT = 16

T = TypeVar("T")
R = TypeVar("R")


def each(items: Sequence[T], act: Callable[[T], R]) -> list[R]:
    """Call `act` on each, IN_FLIGHT at a time; returns results in order, raises the first error."""
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(IN_FLIGHT, len(items))) as pool:
        # Each runs in a copy of this thread's context, which says how long to wait (timeouts.py).
        running = [pool.submit(copy_context().run, act, item) for item in items]
        try:
            return [one.result() for one in running]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
