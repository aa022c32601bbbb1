"""Opens multipart uploads: what storage is asked while somebody waits for a new upload to begin.

A request of boto3's takes milliseconds of CPU, most of what such a beginning costs at all; one that
is signed here and goes by a connection that is kept, a tenth of it. Errors are botocore's own, so
that storage.py tells all of them alike.
"""

import random
import re
import time
from collections.abc import Mapping
from html import unescape

from botocore.exceptions import ClientError, HTTPClientError

from app.gateways.lines import BROKEN, Answer, Lines
from app.gateways.presign import Presigner

OPERATION = "CreateMultipartUpload"
# As botocore has it: after what says that it will pass it is asked again, ever later. A 200 without
# an id is an answer that broke off, or an error that came too late.
_PASSING = {200, 429, 500, 502, 503, 504}
_PASSING_CODES = {"RequestTimeout", "SlowDown"}
_ID = re.compile(rb"<(?:\w+:)?UploadId>([^<]+)</")
_CODE = re.compile(rb"<(?:\w+:)?Code>([^<]+)</")


class Opener:
    """Asks one bucket. Any number of threads may use it."""

    def __init__(self, presigner: Presigner, lines: Lines) -> None:
        self._presigner = presigner
        self._lines = lines

    def open(self, key: str, headers: Mapping[str, str], read_seconds: float, attempts: int) -> str:
        """The id of a new upload at this key. Raises botocore's ClientError and BotoCoreError."""
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.random() * 2 ** (attempt - 1))  # noqa: S311
            failure: Exception
            answer = self._post(key, headers, read_seconds)
            if answer.status == BROKEN:
                failure = HTTPClientError(error="The connection broke.")
                continue
            if answer.status == 200 and (found := _ID.search(answer.text)):
                return unescape(found[1].decode())
            code = _code(answer)
            failure = _client_error(answer.status, code)
            if answer.status not in _PASSING and code not in _PASSING_CODES:
                break
        raise failure

    def _post(self, key: str, headers: Mapping[str, str], read_seconds: float) -> Answer:
        # Signed anew each time: the moment is part of it.
        target, signed = self._presigner.request("POST", key, "uploads=", headers)
        return self._lines.post(target, signed, read_seconds)


def _code(answer: Answer) -> str:
    found = _CODE.search(answer.text)
    if found is None:
        return str(answer.status) if answer.status != 200 else "InternalError"
    return found[1].decode(errors="replace")


def _client_error(status: int, code: str) -> ClientError:
    told = {"Error": {"Code": code, "Message": ""}}
    # An error inside a 200 is storage's failure.
    known = {"HTTPStatusCode": 500 if status == 200 else status}
    return ClientError({**told, "ResponseMetadata": known}, OPERATION)  # type: ignore[typeddict-item]
