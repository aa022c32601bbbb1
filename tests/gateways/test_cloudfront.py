"""S16: downloads through CloudFront are signed over all of the address, for minutes only."""

import base64
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flask import Flask

from app import clock, config
from app.extensions import storage
from app.gateways.cloudfront import CloudFront
from tests.factories import Sender
from tests.pages.test_command_line import CURL
from tests.test_config import GOOD

URL = "https://d111abcdef8.cloudfront.net"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey = KEY, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


ALL = {"CLOUDFRONT_URL": URL, "CLOUDFRONT_KEY_PAIR_ID": "K2JCJMDEHXQW5F", "CLOUDFRONT_PRIVATE_KEY": pem()}  # fmt: skip


def is_good(url: str) -> bool:
    """As CloudFront looks at it: what it signs is the address without its own three words."""
    base, _, query = url.partition("?")
    pairs = [pair.split("=", 1) for pair in query.split("&")]
    ours = "&".join("=".join(pair) for pair in pairs if pair[0] not in CLOUDFRONTS)
    said = {name: value for name, value in pairs if name in CLOUDFRONTS}
    policy = json.dumps(
        {
            "Statement": [
                {
                    "Resource": f"{base}?{ours}",
                    "Condition": {"DateLessThan": {"AWS:EpochTime": int(said["Expires"])}},
                }
            ]
        },
        separators=(",", ":"),
    )
    plain = said["Signature"].replace("-", "+").replace("_", "=").replace("~", "/")
    try:
        KEY.public_key().verify(base64.b64decode(plain), policy.encode(), PKCS1v15(), SHA1())
    except InvalidSignature:
        return False
    return True


CLOUDFRONTS = ("Expires", "Signature", "Key-Pair-Id")


@pytest.fixture
def delivered(app: Flask) -> Iterator[config.Settings]:
    """Downloads leave through CloudFront, for one test."""
    before = config.current()
    given = config.load(GOOD | ALL)
    changed = replace(
        before,
        cloudfront_url=given.cloudfront_url,
        cloudfront_key_pair_id=given.cloudfront_key_pair_id,
        cloudfront_private_key=given.cloudfront_private_key,
    )
    config.bind(changed)
    storage.bind(changed)
    yield changed
    config.bind(before)
    storage.bind(before)


def location(sender: Sender, contents: dict[str, bytes]) -> str:
    sent = sender.ready(contents)
    plain = sender.client.application.test_client(use_cookies=False)
    answer = plain.get(f"/d/{sent.slug}/files/1", headers=CURL)
    assert answer.status_code == 303
    return answer.headers["Location"]


@pytest.mark.usefixtures("delivered")
def test_a_download_leads_to_the_distribution_under_the_files_own_name(sender: Sender) -> None:
    url = location(sender, {"naïve ☕ & 50%.txt": b"content"})
    parts = urlsplit(url)
    assert f"{parts.scheme}://{parts.netloc}" == URL
    assert parts.path.startswith("/beeline/")
    words = parse_qs(parts.query)
    assert (
        "filename*=UTF-8''na%C3%AFve%20%E2%98%95%20&%2050%25.txt"
        in (words["response-content-disposition"][0])
    )
    assert words["response-content-type"] == ["application/octet-stream"]
    assert words["response-cache-control"] == ["private, no-store"]
    assert words["Key-Pair-Id"] == ["K2JCJMDEHXQW5F"]
    assert set(words) == {
        "response-content-disposition", "response-content-type", "response-cache-control", *CLOUDFRONTS,
    }  # fmt: skip
    assert is_good(url)


@pytest.mark.usefixtures("delivered")
def test_its_end_is_inside_and_minutes_away(sender: Sender) -> None:
    url = location(sender, {"a": b"1"})
    ends = int(parse_qs(urlsplit(url).query)["Expires"][0])
    assert 250 < ends - clock.now().timestamp() <= 300
    assert not is_good(url.replace(f"Expires={ends}", f"Expires={ends + 1}"))


@pytest.mark.usefixtures("delivered")
@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("attachment", "inline"),
        lambda url: url.replace("octet-stream", "html"),
        lambda url: url.replace("no-store", "public"),
        lambda url: url.replace("response-content-type=application%2Foctet-stream&", ""),
        lambda url: url.replace("/beeline/", "/beeline/0"),
        lambda url: url.replace("d111", "d112"),
        lambda url: url.replace("&Expires", "&more=1&Expires"),
    ],
)
def test_nothing_of_it_can_be_changed(sender: Sender, change: Callable[[str], str]) -> None:
    url = location(sender, {"a": b"1"})
    assert is_good(url)
    assert change(url) != url
    assert not is_good(change(url))


@pytest.mark.usefixtures("delivered")
def test_uploads_stay_on_the_bucket_and_browsers_may_go_to_both(sender: Sender) -> None:
    sent = sender.create()
    (part,) = sent.sign(sent.files[0])
    assert part["url"].startswith(storage.urls.origin)
    assert storage.urls.origin != URL
    policy = sender.client.get(f"/d/{sent.slug}").headers["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["form-action"] == f"'self' {storage.urls.origin} {URL}"
    assert rules["connect-src"] == f"'self' {storage.urls.origin} {URL}"
    assert rules["img-src"] == f"'self' data: {storage.urls.origin} {URL}"


@pytest.mark.usefixtures("delivered")
def test_s32_neither_key_nor_address_is_logged(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger().addHandler(caplog.handler)
    caplog.set_level(logging.DEBUG)
    url = location(sender, {"a": b"1"})
    line = pem().splitlines()[1]
    assert parse_qs(urlsplit(url).query)["Signature"][0] not in caplog.text
    assert line not in caplog.text
    delivery = storage.urls._delivery
    for shown in (
        repr(config.current()),
        repr(delivery),
        repr(vars(delivery)),
        repr(vars(storage)),
    ):
        assert line not in shown


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("write", [str, str.strip, lambda text: text.replace("\n", "\\n")])
def test_the_key_is_read_however_it_is_written(
    form: PrivateFormat, write: Callable[[str], str]
) -> None:
    settings = config.load(GOOD | ALL | {"CLOUDFRONT_PRIVATE_KEY": write(pem(form=form))})
    url = CloudFront(settings).url("k/ü", {"a": "b c&d"}, 60)
    assert url.startswith(f"{URL}/k/%C3%BC?a=b%20c%26d&Expires=")
    assert dict(parse_qsl(urlsplit(url).query))["a"] == "b c&d"
    assert is_good(url)


@pytest.mark.parametrize("missing", ALL)
@pytest.mark.parametrize("how", ["not set", "empty"])
def test_all_three_or_none(missing: str, how: str) -> None:
    given = GOOD | ALL | {missing: ""}
    if how == "not set":
        del given[missing]
    with pytest.raises(config.ConfigError, match="belong together"):
        config.load(given)
    assert config.load(GOOD | dict.fromkeys(ALL, "")).cloudfront_url == ""


OTHER_KEYS = {
    "no key": "a canary of a key",
    "half of one": pem()[:400],
    "a public key's head": pem().replace("PRIVATE", "PUBLIC"),
    "locked": KEY.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    ).decode(),
    "of another kind": ec.generate_private_key(ec.SECP256R1())
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode(),
}


@pytest.mark.parametrize("kind", OTHER_KEYS)
def test_s34_a_key_that_cannot_be_used_is_refused_and_never_repeated(kind: str) -> None:
    with pytest.raises(config.ConfigError, match="CLOUDFRONT_PRIVATE_KEY must be") as caught:
        config.load(GOOD | ALL | {"CLOUDFRONT_PRIVATE_KEY": OTHER_KEYS[kind]})
    shown = str(caught.value)
    for line in OTHER_KEYS[kind].splitlines():
        assert line not in shown
