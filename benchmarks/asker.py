"""Sends requests to a web process over persistent connections, in a process of its own.

    python -m benchmarks.asker < question

The question is JSON: `port`, `seconds`, `headers`, the expected `status` and `connections`, each of
which is a list of [method, path, body] to be sent in turn, the next one after the last was
answered. Prints as JSON how many answers came in how many seconds. Any other status ends it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from itertools import cycle
from typing import Any


class Asker:
    """Several connections to one web process, each in a thread."""

    def __init__(self, question: dict[str, Any]) -> None:
        self._question = question
        self._counts: list[int] = []
        self._until = 0.0

    def ask(self) -> dict[str, float]:
        """Send requests until the time is over; the seconds returned end with the last answer."""
        began = time.monotonic()
        self._until = began + self._question["seconds"]
        lists = self._question["connections"]
        threads = [threading.Thread(target=self._keep_asking, args=(one,)) for one in lists]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"answers": sum(self._counts), "seconds": time.monotonic() - began}

    def _keep_asking(self, requests: Sequence[tuple[str, str, str | None]]) -> None:
        connection = HTTPConnection("127.0.0.1", self._question["port"], timeout=30)
        count = 0
        for method, path, body in cycle(requests):
            connection.request(method, path, body, self._question["headers"])
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != self._question["status"]:
                print(f"{method} {path}: {answer.status} {said[:300]!r}", file=sys.stderr)
                sys.stderr.flush()
                os._exit(1)
            count += 1
            if time.monotonic() > self._until:
                break
        self._counts.append(count)


if __name__ == "__main__":
    print(json.dumps(Asker(json.load(sys.stdin)).ask()))
