"""S3's documents: written from nested lists, and read with anything but plain elements refused."""

import re
from collections.abc import Sequence
from typing import Union
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from embedded.s3.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
CONTROL = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")

Node = tuple[str, Union[str, int, bool, "Sequence[Node]"]]


def write(name: str, children: Sequence[Node], namespace: str = NAMESPACE) -> bytes:
    """Write a document; pass an empty namespace for an error document, which has none in S3."""
    attribute = f' xmlns="{namespace}"' if namespace else ""
    inner = "".join(_element(child) for child in children)
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{attribute}>{inner}</{name}>'
    return text.encode("utf-8", "replace")


def read(body: bytes, root: str) -> ElementTree.Element:
    """Parse a document and return its root, with namespaces removed; raises MalformedXML."""
    # Neither a DOCTYPE nor an encoding that could hide one is accepted.
    if b"\0" in body or b"<!" in body.replace(b"<!--", b""):
        raise _malformed()
    try:
        document = ElementTree.fromstring(body)  # noqa: S314 - no DTD gets here.
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _malformed() from error
    for element in document.iter():
        element.tag = element.tag.rpartition("}")[2]
    if document.tag != root:
        raise _malformed()
    return document


def text(element: ElementTree.Element, name: str, default: str | None = None) -> str:
    """The text of a child; MalformedXML if it is missing and has no default."""
    value = element.findtext(name)
    if value is None:
        value = default
    if value is None:
        raise _malformed()
    return value


def whole(element: ElementTree.Element, name: str) -> int:
    """The whole number in a child; MalformedXML if it is none."""
    value = text(element, name).strip()
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise _malformed()
    return int(value)


def _element(node: Node) -> str:
    name, value = node
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, (str, int)):
        return f"<{name}>{_text(str(value))}</{name}>"
    return f"<{name}>{''.join(_element(child) for child in value)}</{name}>"


def _text(value: str) -> str:
    """Escape a text; characters that XML cannot hold become references, as in S3."""
    return CONTROL.sub(lambda found: f"&#x{ord(found[0]):x};", escape(value, {'"': "&quot;"}))


def _malformed() -> S3Error:
    return S3Error(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
