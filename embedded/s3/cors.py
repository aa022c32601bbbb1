"""A bucket's CORS rules: parsed, matched, and answered as by S3.

Facts from "Using cross-origin resource sharing" and the CORSRule type in the Amazon S3
documentation: the first rule that allows origin, method and every requested header decides.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from xml.etree.ElementTree import Element

from embedded.s3 import xml
from embedded.s3.errors import S3Error
from embedded.s3.store import Bucket
from embedded.s3.wire import Request, Response

METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")
VARY = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
RULE_LIMIT = 100


@dataclass(frozen=True)
class Rule:
    """One CORSRule; `headers` are in lower case, `max_age` is in seconds, empty if not set."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age: str

    def allows(self, origin: str, method: str, headers: list[str]) -> bool:
        """Whether it allows the origin, the method and every header (lower-case names)."""
        return (
            method in self.methods
            and any(_matches(pattern, origin) for pattern in self.origins)
            and all(any(_matches(p, name) for p in self.headers) for name in headers)
        )

    def answer(self, origin: str) -> dict[str, str]:
        """The headers for the response to a matching request."""
        anyone = "*" in self.origins
        answer = {
            "Access-Control-Allow-Origin": "*" if anyone else origin,
            "Access-Control-Allow-Methods": ", ".join(self.methods),
            "Vary": VARY,
        }
        if not anyone:
            answer["Access-Control-Allow-Credentials"] = "true"
        if self.exposed:
            answer["Access-Control-Expose-Headers"] = ", ".join(self.exposed)
        if self.max_age:
            answer["Access-Control-Max-Age"] = self.max_age
        return answer


@lru_cache(maxsize=32)
def read_rules(text: str) -> tuple[Rule, ...]:
    """Parse a CORSConfiguration document; S3Error if S3 would refuse it."""
    root = xml.read(text.encode(), "CORSConfiguration")
    rules = tuple(_read_rule(element) for element in root.findall("CORSRule"))
    if not rules or len(rules) != len(root):
        raise S3Error("MalformedXML", "A CORS configuration consists of CORSRule elements")
    if len(rules) > RULE_LIMIT:
        raise S3Error("InvalidRequest", f"A CORS configuration has at most {RULE_LIMIT} rules")
    return rules


def preflight(request: Request, bucket: Bucket | None) -> Response:
    """The answer to OPTIONS, which is never signed; S3Error if no rule allows the request."""
    origin = request.headers.get("origin")
    method = request.headers.get("access-control-request-method")
    if not origin:
        message = "Insufficient information. Origin request header needed."
        raise S3Error("BadRequest", message)
    if method not in METHODS:
        message = f"Invalid Access-Control-Request-Method: {method or 'null'}"
        raise S3Error("BadRequest", message)
    if bucket is None or not bucket.cors:
        raise _forbidden("CORS is not enabled for this bucket.", method, bucket)
    asked = request.headers.get("access-control-request-headers").lower()
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for rule in read_rules(bucket.cors):
        if rule.allows(origin, method, names):
            answer = rule.answer(origin)
            if names:
                answer["Access-Control-Allow-Headers"] = ", ".join(names)
            return Response(200, answer)
    raise _forbidden(
        "This CORS request is not allowed. This is usually because the evaluation of Origin, "
        "request method / Access-Control-Request-Method or Access-Control-Request-Headers "
        "are not whitelisted by the resource's CORS spec.",
        method,
        bucket,
    )


def response_headers(request: Request, bucket: Bucket | None) -> dict[str, str]:
    """The headers added to any other response, even an error, for a page of an allowed origin."""
    origin = request.headers.get("origin")
    if not origin or bucket is None or not bucket.cors or request.method == "OPTIONS":
        return {}
    for rule in read_rules(bucket.cors):
        if rule.allows(origin, request.method, []):
            return rule.answer(origin)
    return {}


def _read_rule(element: Element) -> Rule:
    rule = Rule(
        origins=_texts(element, "AllowedOrigin"),
        methods=_texts(element, "AllowedMethod"),
        headers=tuple(name.lower() for name in _texts(element, "AllowedHeader")),
        exposed=_texts(element, "ExposeHeader"),
        max_age=str(xml.whole(element, "MaxAgeSeconds")) if _has(element, "MaxAgeSeconds") else "",
    )
    if not rule.origins or not rule.methods:
        raise S3Error("MalformedXML", "A CORSRule needs an AllowedOrigin and an AllowedMethod")
    for method in rule.methods:
        if method not in METHODS:
            raise S3Error(
                "InvalidRequest",
                f"Found unsupported HTTP method in CORS config. Unsupported method is {method}",
            )
    if any(pattern.count("*") > 1 for pattern in (*rule.origins, *rule.headers)):
        raise S3Error("InvalidRequest", "AllowedOrigin and AllowedHeader can have one wildcard")
    if not all(TOKEN.fullmatch(name) and "*" not in name for name in rule.exposed):
        raise S3Error("InvalidRequest", "ExposeHeader contains a character that is not allowed")
    return rule


def _texts(element: Element, name: str) -> tuple[str, ...]:
    return tuple((child.text or "").strip() for child in element.findall(name))


def _has(element: Element, name: str) -> bool:
    return element.find(name) is not None


def _matches(pattern: str, text: str) -> bool:
    first, star, last = pattern.partition("*")
    if not star:
        return pattern == text
    return len(text) >= len(pattern) - 1 and text.startswith(first) and text.endswith(last)


def _forbidden(message: str, method: str, bucket: Bucket | None) -> S3Error:
    message = message if bucket else "Bucket not found"
    return S3Error(
        "AccessForbidden", f"CORSResponse: {message}", Method=method, ResourceType="BUCKET"
    )
