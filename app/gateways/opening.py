"""Opens multipart uploads: what storage is asked while somebody waits for a new upload to begin.

A request of boto3's takes milliseconds of CPU, most of what such a beginning costs at all; one that
is signed here and goes by a connection that is kept, a tenth of it.
"""

import random
import re
import time
from collections.abc import Mapping
from html import unescape

from app.gateways.lines import Answer, Lines
from app.gateways.presign import Presigner
from app.gateways.stored import Away, failure_of

_ID = re.compile(rb"<(?:\w+:)?UploadId>([^<]+)</")


class Opener:
    """Asks one bucket. Any number of threads may use it."""

    def __init__(self, presigner: Presigner, lines: Lines) -> None:
        self._presigner = presigner
        self._lines = lines

    def open(self, key: str, headers: Mapping[str, str], read_seconds: float, attempts: int) -> str:
        """The id of a new upload at this key; raises as failure_of() says.

        As botocore does it: after what will pass it is asked again, ever later.
        """
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.random() * 2 ** (attempt - 1))  # noqa: S311
            answer = self._post(key, headers, read_seconds)
            if answer.status != 200:
                failure = failure_of(answer)
            elif found := _ID.search(answer.text):
                return unescape(found[1].decode())
            else:  # It broke off, or is an error that came too late.
                failure = Away()
            if not isinstance(failure, Away):
                break
        raise failure

    def _post(self, key: str, headers: Mapping[str, str], read_seconds: float) -> Answer:
        # Signed anew each time: the moment is part of it.
        target, signed = self._presigner.request("POST", key, "uploads=", headers)
        return self._lines.post(target, signed, read_seconds)
