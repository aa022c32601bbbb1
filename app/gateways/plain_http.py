"""Requests as a browser sends them: without our credentials, to the addresses that people use.

For `flask doctor`, which tries what browsers will do. Storage's own requests are in storage.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CONNECT_SECONDS = 3.0
READ_SECONDS = 4.0


class Unreachable(Exception):
    """There was no response; the text says why."""


@dataclass(frozen=True)
class Reply:
    """A response; the names in `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def send(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> Reply:
    """Send one request, without following redirects; raises Unreachable.

    The timeouts are for the connection and for each piece of the response, not for the whole.
    """
    # Imported here: only a command needs it. boto3 brings it along, so it is always there.
    import urllib3

    try:
        answer = urllib3.request(
            method,
            url,
            headers=dict(headers or {}),
            body=body,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=False,
            redirect=False,
        )
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unreachable(why(error)) from error
    return Reply(
        answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.data
    )


def post_form(url: str, fields: Mapping[str, str], body: bytes, content_type: str) -> Reply:
    """Send a form whose last field is a file, as send() does; raises Unreachable."""
    from urllib3.filepost import encode_multipart_formdata

    file = ("doctor.txt", body, content_type)
    form, its_type = encode_multipart_formdata({**fields, "file": file})
    return send("POST", url, {"Content-Type": its_type}, form)


def why(error: BaseException) -> str:
    """The root of an error in the system's words: urllib3's own repeat the URL."""
    root = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    if isinstance(root, TimeoutError):
        return "no answer in time"
    words = getattr(root, "verify_message", None) or getattr(root, "strerror", None)
    return str(words or type(root).__name__)
