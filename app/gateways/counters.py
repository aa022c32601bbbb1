"""The rate limits' counters in Redis, and in memory while Redis is away."""

from typing import Any

import redis
from limits.storage import MemoryStorage, RedisStorage
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.circuit import Circuit


class Counters(RedisStorage):
    """Counts in Redis; while Redis is away, each process counts in its own memory instead.

    An outage of Redis is no reason to refuse service. The circuit is shared with the job queue:
    whichever finds Redis away opens it for both, so that only an occasional request has to wait.
    """

    # The limits library picks a storage class by URL scheme: these make it pick this one.
    STORAGE_SCHEME = ["redis", "rediss", "unix"]  # noqa: RUF012
    # The base class would also import valkey, wherever that is installed.
    DEPENDENCIES = {"redis": None}  # noqa: RUF012

    def __init__(self, uri: str, *, circuit: Circuit, **options: Any) -> None:
        """Take the options of RedisStorage; opens no connection."""
        super().__init__(uri, **options)
        self._circuit = circuit
        self._in_memory = MemoryStorage()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a count and return it."""
        return int(self._ask("incr", key, expiry, amount))

    def get(self, key: str) -> int:
        """Return a count."""
        return int(self._ask("get", key))

    def get_expiry(self, key: str) -> float:
        """Return the time at which a count starts over."""
        return float(self._ask("get_expiry", key))

    def _ask(self, method: str, *arguments: Any) -> Any:
        away = redis.ConnectionError("Redis did not answer a moment ago")
        try:
            with self._circuit.guard((redis.ConnectionError, redis.TimeoutError), away):
                return getattr(super(), method)(*arguments)
        except redis.RedisError:
            return getattr(self._in_memory, method)(*arguments)


def options(circuit: Circuit) -> dict[str, Any]:
    """Return the storage options for flask-limiter: short timeouts, no retries."""
    return {
        "circuit": circuit,
        "socket_timeout": 1,
        "socket_connect_timeout": 1,
        "retry": Retry(NoBackoff(), 0),
    }
