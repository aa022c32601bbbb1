"""Parsers of settings: each function reads a value from its text, or raises ValueError.

An error's text follows the setting's name (`MAX_FILES must be ...`) and never repeats the value.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app import addresses

_ENCODED = "percent-encode special characters in its user and password (%40 for @, %2F for /)"
_KNOWN_SECRETS = {"changeme", "secret", "dev", "development", "insecure", "default", "password"}


def text(value: str) -> str:
    """Any text, without surrounding white space."""
    return value.strip()


def name(value: str) -> str:
    """What a site or a person is called, in at most 40 characters."""
    said = value.strip()
    if not 1 <= len(said) <= 40 or not said.isprintable():
        raise ValueError("must be 1 to 40 characters, without control characters")
    return said


def links(value: str) -> tuple[tuple[str, str], ...]:
    """Words and the address that they lead to, any number of times, separated by |."""
    found = []
    for one in value.split("|") if value.strip() else ():
        words, _, url = one.strip().rpartition(" ")
        if not (words.strip() and re.fullmatch(r"(https?://[^\s/]+|mailto:[^\s@]+@)\S*", url)):
            raise ValueError(
                "must be words, a space and an http(s) or mailto: address, separated from the "
                "next by |"
            )
        found.append((name(words), url))
    return tuple(found)


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number within these limits; 1_000 is 1000."""

    def read(value: str) -> int:
        with suppress(ValueError):
            number = int(value.replace("_", ""))
            if least <= number <= most:
                return number
        raise ValueError(f"must be a whole number from {least} to {most}")

    return read


def optional_whole(least: int, most: int) -> Callable[[str], int | None]:
    """A whole number within these limits, or None if empty."""
    return lambda value: whole(least, most)(value) if value.strip() else None


def optional(read: Callable[[str], str]) -> Callable[[str], str]:
    """What `read` accepts, or an empty string."""
    return lambda value: read(value) if value.strip() else ""


def switch(value: str) -> bool:
    """True or false, in one of the usual spellings."""
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if value.strip().lower() not in known:
        raise ValueError("must be true or false")
    return known[value.strip().lower()]


def choice(*names: str) -> Callable[[str], str]:
    """One of these words."""

    def read(value: str) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return value

    return read


def secret(value: str) -> str:
    """A key that cannot be guessed: long, of several different characters, not a usual default."""
    if value.strip().lower() in _KNOWN_SECRETS or len(value) < 32 or len(set(value)) < 8:
        raise ValueError(
            "must be at least 32 random characters, for example from "
            "`python3 -c 'import secrets; print(secrets.token_urlsafe(48))'`"
        )
    return value


def secrets(value: str) -> tuple[str, ...]:
    """Any number of keys, separated by spaces."""
    return tuple(secret(one) for one in value.split())


def origin(value: str) -> str:
    """A URL whose origin is spelled as browsers send it and stores compare it; a path is kept."""
    try:
        parts = urlsplit(value.strip())
        given_port = parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        raise ValueError("must be an absolute http(s) address") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an absolute http(s) address")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be without user and password, and end before any ? or #")
    host = _host(parts.hostname)
    is_usual = given_port in (None, {"http": 80, "https": 443}[parts.scheme])
    port = "" if is_usual else f":{given_port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _host(name: str) -> str:
    """A host name as browsers send it, or an IPv6 address in brackets."""
    if ":" in name:
        return f"[{name}]"
    if name.isascii():
        return name
    with suppress(UnicodeError):
        # Python encodes these four by an older standard, which gives the name of another host.
        if not re.search("[ßς\u200c\u200d]", name):
            return name.encode("idna").decode()
    raise ValueError("must name its host as browsers send it, with xn--")


def hosts(value: str) -> tuple[str, ...]:
    """Any number of host names or addresses, separated by spaces."""
    words = tuple(value.lower().split())
    for one in words:
        with suppress(ValueError):
            if urlsplit(f"//[{one}]" if ":" in one else f"//{one}").hostname == one:
                continue
        raise ValueError("must be host names without https:// and port, separated by spaces")
    return words


def base_url(value: str) -> str:
    """A URL without a path."""
    url = origin(value)
    if urlsplit(url).path:
        raise ValueError("must be an address without a path, such as https://send.example.org")
    return url


def database(value: str) -> str:
    """A PostgreSQL URL, rewritten to name the driver, as SQLAlchemy requires.

    Heroku hands out postgres://, and SQLAlchemy 2.1 takes postgresql:// to mean psycopg 3.
    """
    rewritten = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", value.strip())
    if not rewritten.startswith("postgresql+psycopg2://"):
        raise ValueError("must be a postgresql:// address")
    try:
        parts = make_url(rewritten)
    except (ValueError, ArgumentError):
        parts = None
    # A password that holds an @ ends there, and what follows would be shown as the host.
    if parts is None or (parts.host and "@" in f"{parts.host}{parts.database}"):
        raise ValueError(f"must be postgresql://user:password@host:port/name; {_ENCODED}")
    return rewritten


def redis(value: str) -> str:
    """The address of a Redis or Valkey server."""
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be a redis:// or rediss:// address")
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise ValueError(f"must be redis://:password@host:port/number; {_ENCODED}") from None
    return value


def prefix(value: str) -> str:
    """A folder in the bucket, with its trailing slash."""
    if not re.fullmatch(r"([A-Za-z0-9_-]+/)+", value):
        raise ValueError("must end in a slash and hold only letters, figures, - and _")
    return value


def contact(value: str) -> str:
    """A mail address or a web page; may be empty."""
    said = value.strip()
    if said and not re.fullmatch(r"https?://[^\s]+|[^\s@:/?#]+@[^\s@:/?#]+", said):
        raise ValueError("must be a mail address or an http(s) address")
    return said


def cloudfront_url(value: str) -> str:
    """An https URL without a path."""
    url = base_url(value)
    if not url.startswith("https://"):
        raise ValueError("must begin with https://")
    return url


def key_pair_id(value: str) -> str:
    """The id that CloudFront gave to a public key; may be empty."""
    if not re.fullmatch(r"[A-Za-z0-9]*", value.strip()):
        raise ValueError("must be letters and figures")
    return value.strip()


def private_key(value: str) -> str:
    """An RSA key as PEM, whose line ends may be spelled `\\n`, as some platforms store them."""
    pem = value.strip().replace("\\n", "\n")
    # Imported here, so that it is loaded only if this setting is used.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("must be an RSA private key as PEM, without a passphrase") from None
    return pem


def mail_url(value: str) -> str:
    """Where mail is handed over: a server, SES, or a folder for tests."""
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), 0
    is_server = parts.scheme in {"smtp", "smtps"} and parts.hostname and port != 0
    if is_server and not unquote(f"{parts.username or ''}{parts.password or ''}").isascii():
        raise ValueError(
            "must have a user and a password of ASCII only: no mail server is told others"
        )
    is_folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if not (is_server or is_folder or (parts.scheme == "ses" and parts.hostname)):
        raise ValueError(
            "must be smtp://user:password@host:port, smtps://..., ses://region or file:///folder"
        )
    return value.strip()


def topic(value: str) -> str:
    """The ARN of an SNS topic; may be empty."""
    arn = value.strip()
    if arn and not re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}", arn):
        raise ValueError("must be the ARN of a standard topic: arn:aws:sns:region:account:name")
    return arn


def queue(value: str) -> str:
    """The address of an SQS queue."""
    url = origin(value)
    if not re.fullmatch(r"/[\w/-]+", urlsplit(url).path):
        raise ValueError("must be the address of a standard queue: https://sqs.region...")
    return url


def mail_from(value: str) -> str:
    """A mail address, with or without a name."""
    _, address = parseaddr(value.strip())
    if not re.fullmatch(r"[\w.+-]+@[A-Za-z0-9.-]+", address, re.ASCII) or not value.isprintable():
        raise ValueError("must be an address such as Beeline <files@send.example.org>")
    return value.strip()


def mail_addresses(value: str) -> tuple[str, ...]:
    """Any number of mail addresses, separated by spaces, spelled as rows hold them."""
    return tuple(_each(value, addresses.normalised, "mail addresses"))


def mail_senders(value: str) -> tuple[str, ...]:
    """Mail addresses, and @domains whose every address is meant; spelled as rows hold them."""
    return tuple(_each(value, _sender, "mail addresses or @domains"))


def _each(value: str, read: Callable[[str], str], what: str) -> Iterator[str]:
    for number, one in enumerate(value.split(), 1):
        try:
            yield read(one)
        except addresses.NotAnAddress:
            raise ValueError(
                f"must be {what} of the public DNS, separated by spaces: number {number} is not one"
            ) from None


def _sender(word: str) -> str:
    if "*" in word:
        # Mail allows it in a name, so this would be one address, of nobody: no pattern.
        raise addresses.NotAnAddress(word)
    # A domain is spelled as it would be in any address of it.
    return addresses.normalised(f"x{word}")[1:] if word[0] == "@" else addresses.normalised(word)


def types(value: str) -> tuple[str, ...]:
    """Media types in lower case, in which a trailing asterisk matches any ending."""
    types = tuple(value.lower().split())
    for one in types:
        if not re.fullmatch(r"\*/\*|[a-z0-9-]+/([a-z0-9.+_-]+\*?|\*)", one):
            raise ValueError("must be types such as image/* or application/pdf")
    if not types:
        raise ValueError("must name a type; */* allows all")
    return types
