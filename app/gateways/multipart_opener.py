"""Opens multipart uploads without boto3, because a person waits for each.

A boto3 request takes milliseconds of CPU, most of the cost of starting an upload. Signing it here
and sending it on a kept-alive connection takes a tenth of that.
"""

import random
import re
import time
from collections.abc import Mapping
from html import unescape

from app.gateways.http_pool import Answer, Lines
from app.gateways.presign import Presigner
from app.gateways.s3_answers import Away, failure_of

_ID = re.compile(rb"<(?:\w+:)?UploadId>([^<]+)</")


class Opener:
    """Opens multipart uploads in one bucket. Thread-safe."""

    def __init__(self, presigner: Presigner, lines: Lines) -> None:
        self._presigner = presigner
        self._lines = lines

    def open(self, key: str, headers: Mapping[str, str], read_seconds: float, attempts: int) -> str:
        """Open an upload at this key and return its id; raises what failure_of() returns.

        Retries after Away with exponential backoff and jitter, as botocore does.
        """
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.random() * 2 ** (attempt - 1))  # noqa: S311
            answer = self._post(key, headers, read_seconds)
            if answer.status != 200:
                failure = failure_of(answer)
            elif found := _ID.search(answer.text):
                return unescape(found[1].decode())
            else:  # The body was cut off, or is an error that came after the 200.
                failure = Away()
            if not isinstance(failure, Away):
                break
        raise failure

    def _post(self, key: str, headers: Mapping[str, str], read_seconds: float) -> Answer:
        # Signed again for each attempt, because the signature contains the time.
        target, signed = self._presigner.request("POST", key, "uploads=", headers)
        return self._lines.post(target, signed, read_seconds)
