"""What every action receives: the request, its verified signature, and the store."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from embedded.s3 import xml
from embedded.s3.errors import S3Error
from embedded.s3.sigv4 import Signature
from embedded.s3.store import Store
from embedded.s3.wire import Request, Response

OWNER: xml.Node = ("Owner", [("ID", "beeline"), ("DisplayName", "beeline")])


@dataclass(frozen=True)
class Call:
    """An authenticated request and the store to answer it from."""

    request: Request
    signature: Signature
    store: Store

    @property
    def bucket(self) -> str:
        return self.request.bucket

    @property
    def key(self) -> str:
        return self.request.key

    def header(self, name: str) -> str:
        """The value of a header (lower-case name), empty if it was not sent."""
        return self.request.headers.get(name)

    def arg(self, name: str) -> str:
        """The value of a query argument, empty if it was not sent."""
        return self.request.arg(name)

    def limit(self, name: str) -> int:
        """A page size from the query string: 1000 by default and at most."""
        return min(self.whole(name, 1000), 1000)

    def whole(self, name: str, default: int) -> int:
        """A whole number from the query string, or the default; InvalidArgument if it is none."""
        value = self.arg(name)
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,10}", value):
            message = f"Provided {name} not an integer or within integer range"
            raise S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=value)
        return int(value)

    def encoder(self) -> "Encoder":
        """The encoder of keys in a list: `encoding-type=url` asks for percent-encoding."""
        kind = self.arg("encoding-type")
        if kind not in ("", "url"):
            raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
        return Encoder(kind)


@dataclass(frozen=True)
class Encoder:
    """Encodes keys in a list: percent-encoded if `kind` is "url", unchanged if it is empty."""

    kind: str

    def __call__(self, text: str) -> str:
        return quote(text, safe="/~") if self.kind else text

    @property
    def nodes(self) -> list[xml.Node]:
        """The EncodingType element for the list, if keys are encoded."""
        return [("EncodingType", self.kind)] if self.kind else []


def document(name: str, nodes: Sequence[xml.Node], status: int = 200) -> Response:
    """A response with an XML document in S3's namespace."""
    return Response(status, {"Content-Type": "application/xml"}, xml.write(name, nodes))


def iso(moment_ms: int) -> str:
    """A time in milliseconds since the epoch, as S3's documents write it."""
    moment = datetime.fromtimestamp(moment_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03d}Z"
