"""Every signature equals botocore's, on fuzzed keys, regions, tokens and addressing styles."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import botocore.session
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from app.gateways.presign import Credentials, Presigner
from tests.factories import crc32_of

NOW = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
ALPHABET = "abcXYZ019/-_.~ +%&=?#'()*!:;,@$é☕日\"<>\\"


def presigner(rng: random.Random) -> tuple[Presigner, Credentials, str]:
    credentials = Credentials(
        f"AK{rng.randrange(10**9)}", f"s/e+c{rng.randrange(10**9)}", rng.choice([None, "tok/en+=="])
    )
    region = rng.choice(["us-east-1", "eu-central-1", "auto"])
    made = Presigner(
        rng.choice(["http://127.0.0.1:9000", "https://s3.example.org", "https://h.example/base"]),
        "bucket",
        region,
        in_path=rng.random() < 0.5,
        credentials=lambda: credentials,
        now=lambda: NOW,
    )
    return made, credentials, region


def like(client: Any, *, in_path: bool) -> Presigner:
    """Ours, for where a client of boto3's points, with its keys "AK" and "SK"."""
    return Presigner(
        client.meta.endpoint_url,
        "bucket",
        "eu-west-1",
        in_path=in_path,
        credentials=lambda: Credentials("AK", "SK"),
        now=lambda: NOW,
    )


def botocores(
    method: str,
    url: str,
    headers: dict[str, str],
    credentials: Credentials,
    region: str,
    monkeypatch: Any,
) -> str:
    """The query that botocore signs for the same request."""
    parts = urlsplit(url)
    ours = dict(parse_qsl(parts.query, keep_blank_values=True))
    params = {k: v for k, v in ours.items() if not k.startswith("X-Amz-")}
    request = AWSRequest(
        method, f"{parts.scheme}://{parts.netloc}{parts.path}", headers=headers, params=params
    )
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
    boto = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    S3SigV4QueryAuth(boto, "s3", region, int(ours["X-Amz-Expires"])).add_auth(request)
    return request.prepare().url


def signature(url: str) -> str:
    return dict(parse_qsl(urlsplit(url).query))["X-Amz-Signature"]


@pytest.mark.parametrize("seed", range(60))
def test_any_url_is_signed_as_botocore_signs_it(seed: int, monkeypatch) -> None:
    rng = random.Random(seed)
    ours, credentials, region = presigner(rng)
    key = "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 40))).lstrip("/") or "k"
    query = (
        {"response-content-disposition": "attachment; filename*=UTF-8''%C3%A9"} if seed % 2 else {}
    )
    headers = {"If-None-Match": "*", "Content-Length": "17"} if seed % 3 else {}
    if seed % 4:
        headers["Content-Type"] = " text/plain;  charset=utf-8 "
    url = ours.url("PUT", key, expires_in=600, query=query, headers=headers)
    theirs = botocores("PUT", url, headers, credentials, region, monkeypatch)
    assert signature(url) == signature(theirs)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_of_parts_is_signed_as_one_by_one(seed: int, monkeypatch) -> None:
    rng = random.Random(seed)
    ours, credentials, region = presigner(rng)
    upload_id = "".join(rng.choice(ALPHABET) for _ in range(20))
    parts = [(number, rng.randrange(5 * 2**30)) for number in (1, 2, 9, 10, 99, 10_000)]
    urls = ours.part_urls("beeline/kéy", upload_id, parts, expires_in=3600)
    for url, (number, size) in zip(urls, parts, strict=True):
        query = dict(parse_qsl(urlsplit(url).query))
        assert (query["partNumber"], query["uploadId"]) == (str(number), upload_id)
        assert query["X-Amz-SignedHeaders"] == "content-length;host"
        headers = {"Content-Length": str(size)}
        theirs = botocores("PUT", url, headers, credentials, region, monkeypatch)
        assert signature(url) == signature(theirs)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_of_plain_parts_is_signed_as_one_by_one(seed: int, monkeypatch) -> None:
    rng = random.Random(seed)
    ours, credentials, region = presigner(rng)
    upload_id = "".join(rng.choice(ALPHABET) for _ in range(20))
    numbers = (1, 2, 9, 10, 99, 10_000)
    urls = ours.plain_part_urls("beeline/kéy", upload_id, numbers, expires_in=3600)
    for url, number in zip(urls, numbers, strict=True):
        query = {"partNumber": str(number), "uploadId": upload_id}
        assert url == ours.url("PUT", "beeline/kéy", query=query, expires_in=3600)
        theirs = botocores("PUT", url, {}, credentials, region, monkeypatch)
        assert signature(url) == signature(theirs)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_with_checksums_is_signed_as_one_by_one(seed: int, monkeypatch) -> None:
    """F09: the checksum is a signed header, so other bytes than those it is of are refused."""
    rng = random.Random(seed)
    ours, credentials, region = presigner(rng)
    parts = [(number, rng.randrange(5 * 2**30)) for number in (1, 2, 10, 10_000)]
    checksums = [crc32_of(rng.randbytes(9)) for _ in parts]
    urls = ours.part_urls("beeline/k", "u/p=", parts, expires_in=60, checksums=checksums)
    for url, (_, size), checksum in zip(urls, parts, checksums, strict=True):
        query = dict(parse_qsl(urlsplit(url).query))
        assert query["X-Amz-SignedHeaders"] == "content-length;host;x-amz-checksum-crc32"
        assert "checksum" not in urlsplit(url).query.replace("x-amz-checksum-crc32&", "")
        headers = {"Content-Length": str(size), "x-amz-checksum-crc32": checksum}
        theirs = botocores("PUT", url, headers, credentials, region, monkeypatch)
        assert signature(url) == signature(theirs)
    with pytest.raises(ValueError, match="shorter"):
        ours.part_urls("k", "u", parts, expires_in=60, checksums=checksums[1:])


@pytest.mark.parametrize("in_path", [True, False])
@pytest.mark.parametrize("operation", ["upload_part", "put_object"])
def test_botocores_own_presigner_signs_a_checksum_alike(
    in_path: bool, operation: str, monkeypatch
) -> None:
    style = {"addressing_style": "path" if in_path else "virtual"}
    client = botocore.session.Session().create_client(
        "s3",
        region_name="eu-west-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=botocore.config.Config(signature_version="s3v4", s3=style),
    )
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
    checksum = crc32_of(b"what is sent")
    given = {"Bucket": "bucket", "Key": "beeline/k", "ContentLength": 12, "ChecksumCRC32": checksum}
    ours = like(client, in_path=in_path)
    if operation == "upload_part":
        given |= {"PartNumber": 7, "UploadId": "u"}
        (url,) = ours.part_urls("beeline/k", "u", [(7, 12)], expires_in=60, checksums=[checksum])
    else:
        headers = {"Content-Length": "12", "x-amz-checksum-crc32": checksum}
        url = ours.url("PUT", "beeline/k", expires_in=60, headers=headers)
    theirs = client.generate_presigned_url(operation, Params=given, ExpiresIn=60)
    assert dict(parse_qsl(urlsplit(url).query)) == dict(parse_qsl(urlsplit(theirs).query))
    assert url.split("?")[0] == theirs.split("?")[0]


@pytest.mark.parametrize("seed", range(40))
def test_a_request_of_our_own_is_signed_as_botocore_signs_it(seed: int, monkeypatch) -> None:
    rng = random.Random(seed)
    ours, credentials, region = presigner(rng)
    key = "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 40))).lstrip("/") or "k"
    headers = {"Content-Type": "text/plain"} | ({"x-amz-meta-beeline": "t"} if seed % 2 else {})
    target, signed = ours.request("POST", key, "uploads=", headers)
    request = AWSRequest("POST", f"{ours.origin}{target}", headers=headers, data=b"")
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
    boto = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(boto, "s3", region).add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert {name: value for name, value in signed.items() if name != "host"} == theirs
    assert signed["host"] == ours.host


@pytest.mark.parametrize("in_path", [True, False])
def test_addresses_are_where_boto3_would_send_them(in_path: bool) -> None:
    session = botocore.session.Session()
    client = session.create_client(
        "s3",
        region_name="eu-west-1",
        aws_access_key_id="AK",
        aws_secret_access_key="SK",
        config=botocore.config.Config(
            signature_version="s3v4", s3={"addressing_style": "path" if in_path else "virtual"}
        ),
    )
    make: Callable[..., str] = client.generate_presigned_url
    theirs = make("get_object", Params={"Bucket": "bucket", "Key": "a/b c"}, ExpiresIn=60)
    ours = like(client, in_path=in_path)
    assert ours.url("GET", "a/b c", expires_in=60).split("?")[0] == theirs.split("?")[0]


@pytest.mark.parametrize("seed", range(60))
def test_any_form_is_signed_as_botocore_signs_it(seed: int, monkeypatch: Any) -> None:
    rng = random.Random(seed)
    in_path = seed % 2 == 0
    given = Credentials(f"AK{seed}", f"s/e+c{seed}", rng.choice([None, "tok/en+=="]))
    session = botocore.session.Session()
    session.set_credentials(given.access_key, given.secret_key, given.token)
    region = rng.choice(["us-east-1", "eu-central-1"])
    style = {"addressing_style": "path" if in_path else "virtual"}
    config = botocore.config.Config(signature_version="s3v4", s3=style)
    client = session.create_client("s3", region_name=region, config=config)
    ours = Presigner(
        client.meta.endpoint_url,
        "bucket",
        region,
        in_path=in_path,
        credentials=lambda: given,
        now=lambda: NOW,
    )
    for module in ("botocore.auth", "botocore.signers"):
        monkeypatch.setattr(f"{module}.get_current_datetime", lambda: NOW.replace(tzinfo=None))
    key = "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 40)))
    content_type = rng.choice(["image/png", 'text/plain; charset="utf-8"', "x/ü"])
    max_size, lifetime = rng.randrange(5 * 2**30), rng.randrange(1, 86400)
    form = ours.presigned_post(key, content_type, max_size, lifetime)
    fields = {"Content-Type": content_type, "success_action_status": "201"}
    theirs = client.generate_presigned_post(
        "bucket",
        key,
        fields,
        [["content-length-range", 0, max_size], *({name: fields[name]} for name in fields)],
        lifetime,
    )
    assert (form.url, form.fields) == (theirs["url"], theirs["fields"])
