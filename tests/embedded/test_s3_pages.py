"""The embedded S3 endpoint is as strict as S3 towards web pages: CORS rules and forms."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.embedded.endpoint import SECRET_KEY, Answer, MiB, flip, noise, presign, refusal

ORIGIN = "https://beeline.example"
CORS = {
    "CORSRules": [
        {
            "AllowedOrigins": [ORIGIN],
            "AllowedMethods": ["PUT", "GET"],
            "AllowedHeaders": ["x-amz-*", "Content-Type"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 600,
        },
        {"AllowedOrigins": ["https://*.partner.example"], "AllowedMethods": ["GET"]},
        {"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD"]},
    ]
}


# CORS rules


def preflight(endpoint, bucket, origin=ORIGIN, method="PUT", headers="content-type"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    return endpoint.send("OPTIONS", f"/{bucket}/k", headers=asked)


def test_without_rules_no_page_may_do_anything(endpoint, s3, bucket):
    assert preflight(endpoint, bucket).verdict == (403, "AccessForbidden")
    assert preflight(endpoint, "no-such-bucket").verdict == (403, "AccessForbidden")
    answer = endpoint.send("PUT", presign(s3, "put_object", bucket), b"", {"Origin": ORIGIN})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert refusal(s3.get_bucket_cors, Bucket=bucket) == "NoSuchCORSConfiguration"


def test_rules_decide_by_origin_method_and_headers(endpoint, s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == CORS["CORSRules"]
    allowed = preflight(endpoint, bucket, headers="X-Amz-Meta-A, content-type")
    assert allowed.status == 200
    expected = {
        "access-control-allow-origin": ORIGIN,
        "access-control-allow-methods": "PUT, GET",
        "access-control-allow-headers": "x-amz-meta-a, content-type",
        "access-control-expose-headers": "ETag",
        "access-control-max-age": "600",
        "access-control-allow-credentials": "true",
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }
    assert {name: allowed.headers.get(name) for name in expected} == expected
    for wrong in [
        {"origin": "https://evil.example"},
        {"origin": ORIGIN + ".evil.example"},
        {"method": "DELETE"},
        {"headers": "authorization"},
        {"origin": "https://.evil.partner.example.org", "method": "GET"},
    ]:
        assert preflight(endpoint, bucket, **wrong).verdict == (403, "AccessForbidden")
    partner = {"origin": "https://a.b.partner.example", "method": "GET", "headers": ""}
    assert preflight(endpoint, bucket, **partner).status == 200
    anyone = preflight(endpoint, bucket, "null", "HEAD", "")
    assert anyone.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in anyone.headers
    for wrong in ({"method": "PATCH"}, {"method": ""}, {"origin": ""}):
        assert preflight(endpoint, bucket, **wrong).verdict == (400, "BadRequest")


def test_pages_can_read_answers_and_errors(endpoint, s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=CORS)
    missing, good = presign(s3, "get_object", bucket, "no"), presign(s3, "put_object", bucket)
    for answer in (
        endpoint.send("PUT", good, b"x", {"Origin": ORIGIN}),
        endpoint.send("PUT", flip(good), b"x", {"Origin": ORIGIN}),
        endpoint.send("GET", missing, headers={"Origin": ORIGIN}),
    ):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-expose-headers"] == "ETag"
    stranger = endpoint.send("PUT", good, b"x", {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers
    s3.delete_bucket_cors(Bucket=bucket)
    assert preflight(endpoint, bucket).status == 403


@pytest.mark.parametrize(
    "rule",
    [
        {"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]},
        {"AllowedOrigins": ["a*b*"], "AllowedMethods": ["GET"]},
        {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"], "ExposeHeaders": ["x\r\ny"]},
        {"AllowedOrigins": [], "AllowedMethods": ["GET"]},
    ],
)
def test_rules_that_make_no_sense_are_refused(s3, bucket, rule):
    rules = {"CORSRules": [rule]}
    code = refusal(s3.put_bucket_cors, Bucket=bucket, CORSConfiguration=rules)
    assert code in ("InvalidRequest", "MalformedXML")


# Forms


def post_form(endpoint, form, data, fields=None) -> Answer:
    body = b""
    for name, value in {**form["fields"], **(fields or {})}.items():
        head = f'--x7\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        body += head.encode()
    body += b'--x7\r\nContent-Disposition: form-data; name="file"; filename="a b.txt"\r\n\r\n'
    body += data + b"\r\n--x7--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x7"}
    return endpoint.send("POST", form["url"], body, headers)


def test_a_form_stores_what_its_policy_allows(endpoint, s3, bucket):
    def form(key="up/${filename}", expires=60, size=(1, MiB), **fields):
        conditions = [["content-length-range", *size], *({name: fields[name]} for name in fields)]
        return s3.generate_presigned_post(bucket, key, fields, conditions, expires)

    data = noise(600_000) + b"\r\n--x6\r\n--x\r\n"
    assert post_form(endpoint, form(), data).status == 204
    assert s3.get_object(Bucket=bucket, Key="up/a b.txt")["Body"].read() == data
    created = post_form(endpoint, form("k", success_action_status="201"), b"x")
    assert (created.status, b"<Key>k</Key>" in created.body) == (201, True)
    to = {"success_action_redirect": "https://beeline.example/done"}
    assert (
        post_form(endpoint, form("k", **to), b"x")
        .headers["location"]
        .startswith(f"https://beeline.example/done?bucket={bucket}&key=k&etag=")
    )
    before = endpoint.blobs()
    for answer, verdict in [
        (post_form(endpoint, form(size=(1, 10)), bytes(MiB)), (400, "EntityTooLarge")),
        (post_form(endpoint, form(size=(5, 10)), b"1234"), (400, "EntityTooSmall")),
        (post_form(endpoint, form("k"), b"1", {"key": "other"}), (403, "AccessDenied")),
        (post_form(endpoint, form("k"), b"1", {"x-amz-meta-a": "b"}), (403, "AccessDenied")),
        (
            post_form(endpoint, form("k"), b"1", {"x-amz-signature": "0" * 64}),
            (403, "SignatureDoesNotMatch"),
        ),
        (post_form(endpoint, form("k", expires=-1), b"1"), (403, "AccessDenied")),
        (
            post_form(endpoint, form("k", **{"Content-Type": "a\nb"}), b"1"),
            (400, "InvalidArgument"),
        ),
        (post_form(endpoint, form("k", **{"x-amz-meta-a": "☕"}), b"1"), (400, "InvalidArgument")),
        (post_form(endpoint, form("k" * 30_000), b"1"), (400, "MaxPostPreDataLengthExceeded")),
    ]:
        assert answer.verdict == verdict
    assert endpoint.blobs() <= before


def own_form(s3, bucket, conditions, fields=(), *, expires_in=60):
    """A form with only these conditions, signed as boto3 does."""
    form = s3.generate_presigned_post(bucket, "k")
    fields = {**form["fields"], **dict(fields)}
    until = datetime.now(UTC) + timedelta(seconds=expires_in)
    policy = {"expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}", "conditions": conditions}
    for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date"):
        policy["conditions"] = [*policy["conditions"], {name: fields[name]}]
    fields["policy"] = base64.b64encode(json.dumps(policy).encode()).decode()
    _, day, region, *_ = fields["x-amz-credential"].split("/")
    key = f"AWS4{SECRET_KEY}".encode()
    for word in (day, region, "s3", "aws4_request", fields["policy"]):
        key = hmac.digest(key, word.encode(), "sha256")
    return {"url": form["url"], "fields": {**fields, "x-amz-signature": key.hex()}}


@pytest.mark.parametrize(
    ("conditions", "fields", "verdict"),
    [
        ([{"key": "k"}], {}, 204),
        ([["eq", "$key", "k"]], {}, 204),
        ([["starts-with", "$key", ""]], {"key": "anything"}, 204),
        ([["starts-with", "$key", "up/"]], {"key": "up/a"}, 204),
        ([["starts-with", "$key", "up/"]], {"key": "us/a"}, (403, "AccessDenied")),
        ([["eq", "$key", "k"]], {"key": "kk"}, (403, "AccessDenied")),
        (
            [{"key": "k"}, ["starts-with", "$Content-Type", "image/"]],
            {"Content-Type": "image/png"},
            204,
        ),
        (
            [{"key": "k"}, ["starts-with", "$Content-Type", "image/"]],
            {"Content-Type": "text/html"},
            (403, "AccessDenied"),
        ),
        # A condition on a missing field is not met.
        ([{"key": "k"}, {"Content-Type": "image/png"}], {}, (403, "AccessDenied")),
        ([{"key": "k"}, {"bucket": "another"}], {}, (403, "AccessDenied")),
        ([["starts-with", "$bucket", ""], {"key": "k"}], {}, 204),
        # No condition allows this field.
        ([], {}, (403, "AccessDenied")),
        ([{"key": "k"}], {"Content-Type": "a/b"}, (403, "AccessDenied")),
        ([{"key": "k"}], {"x-ignore-me": "a"}, 204),
        ([{"key": "k"}, ["content-length-range", 4, 4]], {}, 204),
        ([{"key": "k"}, ["content-length-range", 0, 3]], {}, (400, "EntityTooLarge")),
        ([{"key": "k"}, ["content-length-range", 5, 9]], {}, (400, "EntityTooSmall")),
        # Of two ranges the narrower one applies.
        (
            [{"key": "k"}, ["content-length-range", 0, 9], ["content-length-range", 0, 3]],
            {},
            (400, "EntityTooLarge"),
        ),
        ([{"key": "k"}, {"success_action_status": "200"}], {"success_action_status": "200"}, 200),
        ([{"key": "k"}, {"success_action_status": "201"}], {"success_action_status": "201"}, 201),
        ([{"key": "k"}, {"success_action_status": "500"}], {"success_action_status": "500"}, 204),
        ([{"key": "k"}], {"success_action_status": "201"}, (403, "AccessDenied")),
        ([["matches", "$key", "k"]], {}, (400, "InvalidPolicyDocument")),
        ([["eq", "key", "k"]], {}, (400, "InvalidPolicyDocument")),
        ([["content-length-range", -1, 3]], {}, (400, "InvalidPolicyDocument")),
        ([{"key": "k", "bucket": "b"}], {}, (400, "InvalidPolicyDocument")),
        (["key"], {}, (400, "InvalidPolicyDocument")),
    ],
)
def test_a_form_is_held_to_each_condition(endpoint, s3, bucket, conditions, fields, verdict):
    answer = post_form(endpoint, own_form(s3, bucket, conditions, fields), b"1234")
    assert (answer.status if isinstance(verdict, int) else answer.verdict) == verdict
    if verdict == (403, "AccessDenied"):
        assert b"Invalid according to Policy: " in answer.body


def test_a_changed_or_expired_form_is_refused(endpoint, s3, bucket):
    def verdict(expires_in=60, **changed):
        form = own_form(s3, bucket, [{"key": "k"}], expires_in=expires_in)
        return post_form(endpoint, form, b"1", changed)

    wider = base64.b64encode(b'{"expiration": "2099-01-01T00:00:00Z", "conditions": []}').decode()
    over = verdict(expires_in=-1)
    assert over.verdict == (403, "AccessDenied")
    assert b"Invalid according to Policy: Policy expired." in over.body
    for changed, expected in [
        ({"policy": wider}, (403, "SignatureDoesNotMatch")),
        ({"policy": ""}, (403, "AccessDenied")),
        ({"x-amz-signature": ""}, (403, "SignatureDoesNotMatch")),
        ({"x-amz-algorithm": "AWS"}, (400, "InvalidArgument")),
        ({"x-amz-credential": "x"}, (400, "AuthorizationHeaderMalformed")),
        (
            {"x-amz-credential": "AK/20260101/us-east-1/s3/aws4_request"},
            (403, "InvalidAccessKeyId"),
        ),
    ]:
        assert verdict(**changed).verdict == expected, changed


def test_a_malformed_form_is_refused(endpoint, bucket):
    for headers, body in [
        ({"Content-Type": "multipart/form-data"}, b""),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b""),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n"),
    ]:
        answer = endpoint.send("POST", f"/{bucket}", body, headers)
        assert answer.verdict == (400, "MalformedPOSTRequest")
