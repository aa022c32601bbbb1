"""Checks of the bucket: what browsers and workers do with it is done once, with a small object.

Every object and multipart upload made here is removed again. Their keys are below our prefix and
have no row, so what is left if the command dies is removed by the sweeps, as anything unknown.
"""

import functools
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from app import clock
from app.config import settings
from app.crc32 import SIZE as CRC32_SIZE
from app.dispositions import attachment
from app.errors import Outage, Unavailable
from app.extensions import storage
from app.gateways import plain_http
from app.gateways.presign import CRC32_HEADER
from app.gateways.s3_answers import (
    OBJECT_TYPE,
    TOKEN_HEADER,
    Checksums,
    NoSuchUpload,
    NotThere,
    StorageRefused,
    code_in,
)
from app.redaction import redacted
from app.services import bucket_rules, planning
from app.services.doctor.backing_services import judged_skew
from app.services.doctor.findings import Finding, failed, ok, warning

BODY = b"Written by flask doctor, and removed again."
WRONG = BODY[::-1]
URL_SECONDS = 120
# Storage refuses requests whose clock is further off.
REFUSED_SKEW_SECONDS = 900
# The storage classes whose objects have to be restored before they can be read.
ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}
# Headers that a page adds to a PUT, of which a browser asks first whether they are admitted.
SENT_BY_PAGES = sorted(("content-type", "if-none-match", CRC32_HEADER, TOKEN_HEADER))
# What to do, by the code that storage gives as the reason of a refusal; the first that it names.
REMEDIES = {
    "RequestTimeTooSkewed": "Set this machine's clock by NTP.",
    "NoSuchBucket": "Correct S3_BUCKET, or let `flask storage setup` create it.",
    "InvalidAccessKeyId": "Correct S3_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Correct S3_SECRET_ACCESS_KEY, and S3_REGION.",
    "AuthorizationHeaderMalformed": "Correct S3_REGION.",
    "PermanentRedirect": "Correct S3_REGION, or S3_ENDPOINT_URL.",
    "Unable to locate credentials": "Set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY.",
    "AccessDenied": 'Give the access key what docs/operate.md lists under "The bucket".',
    "CERTIFICATE_VERIFY_FAILED": (
        'For a certificate of an authority of your own, see docs/operate.md, "The bucket".'
    ),
    "NotImplemented": "This store lacks what Beeline needs: use another.",
}
OTHERWISE = "Look at the S3_* settings, and at storage's own log."
# The same code for a signed URL, where the access key itself has just proven right.
CHANGED_ON_THE_WAY = (
    "The access key is right, so something changes what browsers send: let the proxy in front of "
    "storage pass on the path and the Host header as they come (nginx: proxy_set_header Host "
    "$http_host), or correct S3_PUBLIC_ENDPOINT_URL."
)


def _told(find: Callable[[], Finding]) -> Callable[[], Finding]:
    """Let a check fail with storage's reason where storage refuses or does not answer."""

    @functools.wraps(find)
    def told() -> Finding:
        try:
            return find()
        except plain_http.Unreachable as error:
            return failed(f"Storage does not answer where browsers send to ({error}). {OTHERWISE}")
        except (Unavailable, NotThere, NoSuchUpload) as error:
            return failed(what_to_do_about(error))

    return told


def what_to_do_about(error: Exception) -> str:
    """What storage said, or boto3 about it, without secrets, and what to do about it."""
    return _with_remedy(_cause_of(error))


def _cause_of(error: Exception) -> str:
    """What storage said, or boto3 about it."""
    said = str(error.__cause__ or error)
    return redacted(said).replace("\n", " ")


def _with_remedy(said: str) -> str:
    known = (remedy for code, remedy in REMEDIES.items() if code in said)
    return f"{said.rstrip('. ')}. {next(known, OTHERWISE)}"


@_told
def storage_clock() -> Finding:
    """Whether storage's clock and ours agree: it refuses signatures that are too old or too new."""
    before = clock.now()
    reply = plain_http.send("GET", storage.urls.plain(planning.new_key()))
    after = clock.now()
    said = reply.headers.get("date")
    if said is None:
        return warning("Storage does not tell its time. Look at its clock, and let NTP set it.")
    # The header has whole seconds: on average it is half of one late.
    skew = parsedate_to_datetime(said) - before - (after - before) / 2
    seconds = skew.total_seconds()
    judged = judged_skew("Storage", skew, "storage")
    if seconds > settings.download_url_ttl_in_seconds or abs(seconds) > REFUSED_SKEW_SECONDS:
        return failed(f"{judged.said} Until then storage refuses what Beeline signs.")
    return judged


@_told
def bucket() -> Finding:
    """Whether the bucket is there and the access key may look into it."""
    try:
        next(storage.objects(), None)
        next(storage.open_uploads(), None)
    except (Unavailable, NotThere) as error:
        if _is_in_endpoint(settings.s3_bucket):
            said = _cause_of(error).rstrip(". ")
            return failed(f"{said}. Take the bucket's name out of S3_ENDPOINT_URL.")
        raise
    return ok(f"The bucket {settings.s3_bucket} answers.")


def _is_in_endpoint(name: str) -> bool:
    """Whether S3_ENDPOINT_URL is the bucket's own address, as the pages of some stores show it."""
    parts = urlsplit(settings.s3_endpoint_url)
    return name in (parts.path.rpartition("/")[2], (parts.hostname or "").partition(".")[0])


@_told
def parts() -> Finding:
    """Whether a file can be sent in parts, by a URL as browsers get it."""
    with _multipart() as (key, s3_upload_id):
        reply = _put_part(key, s3_upload_id, BODY)
        if reply.status != 200:
            return _refused("A part of a file", reply)
        held = storage.list_parts(key, s3_upload_id)
    if [(one.number, one.size) for one in held] != [(1, len(BODY))]:
        return failed("Storage took a part and does not list it: this store cannot be used.")
    return ok("Storage takes parts of files, lists them, and forgets an aborted upload.")


@_told
def whole_file() -> Finding:
    """Whether parts become a file that can be recognised as the one that was sent."""
    token = secrets.token_hex()
    with _key_of_object() as key, _multipart(key, token) as (_, s3_upload_id):
        reply = _put_part(key, s3_upload_id, BODY)
        if reply.status != 200:
            return _refused("A part of a file", reply)
        storage.finish_upload(key, s3_upload_id, storage.list_parts(key, s3_upload_id))
        stored = storage.head(key)
    if stored is None or stored.size != len(BODY):
        return failed("Storage made no whole file of its parts: this store cannot be used.")
    if stored.token != token:
        return failed(
            "Storage does not keep the metadata of files (x-amz-meta-beeline), without which none "
            "counts as arrived. Let it keep them, or use another store."
        )
    return ok("Storage makes a file of its parts, and keeps what belongs to it.")


@_told
def checksums() -> Finding:
    """Whether storage refuses a part that was damaged on its way, if it says that it does."""
    known = storage.ask_checksums()
    if known is Checksums.OFF:
        return ok("S3_CHECKSUMS is off: sizes are compared, checksums are not.")
    if known is Checksums.UNKNOWN:
        return failed("Storage does not say whether it verifies checksums. Run this again.")
    if known is Checksums.NO:
        return ok("This store verifies no checksums: sizes are compared, checksums are not.")
    with _multipart(with_crc32=True) as (key, s3_upload_id):
        damaged = _put_part(key, s3_upload_id, WRONG, _crc32(BODY))
        whole = _put_part(key, s3_upload_id, BODY, _crc32(BODY))
    if damaged.status == 200:
        return failed(
            "Storage says that it verifies checksums, and took a damaged part. Set "
            "S3_CHECKSUMS=off."
        )
    if whole.status != 200:
        return failed(
            f"Storage says that it verifies checksums, and refused a part that was right "
            f"({_code(whole)}). Set S3_CHECKSUMS=off."
        )
    return ok("Storage refuses what was damaged on its way.")


@_told
def single_put() -> Finding:
    """Whether a small file can be sent by one PUT, which does not overwrite what is there."""
    if not settings.s3_conditional_writes:
        return ok("S3_CONDITIONAL_WRITES is false: small files are sent as parts, too.")
    with _key_of_object() as key:
        token = secrets.token_hex()
        url, headers = storage.urls.put(key, token, len(BODY), URL_SECONDS)
        reply = plain_http.send("PUT", url, headers, BODY)
        if reply.status == 501:
            return failed("Storage does not know If-None-Match. Set S3_CONDITIONAL_WRITES=false.")
        if reply.status != 200:
            return _refused("A small file", reply)
        stored = storage.head(key)
        again = plain_http.send("PUT", url, headers, BODY)
    if stored is None or (stored.size, stored.token) != (len(BODY), token):
        return failed("Storage took a file and does not have it as it was: it cannot be used.")
    if again.status == 200:
        return failed(
            "Storage ignores If-None-Match: a file could be replaced after it was checked. Set "
            "S3_CONDITIONAL_WRITES=false."
        )
    return ok("Storage takes small files, and does not let them be overwritten.")


@_told
def signed_urls() -> Finding:
    """Whether storage wants a signed URL, which is good for nothing but what was signed.

    S3 refuses headers x-amz-* that are not signed. A store that obeys them lets senders do more
    than send.
    """
    with _key_of_object() as source, _key_of_object() as key:
        storage.put_object(source, secrets.token_hex(), BODY, OBJECT_TYPE)
        is_open = _is_public(source)
        url = storage.urls.staging(key, OBJECT_TYPE, len(WRONG), URL_SECONDS)
        sent = {"Content-Type": OBJECT_TYPE}
        plain_http.send("PUT", url, sent | {"x-amz-acl": "public-read"}, WRONG)
        is_published = _is_public(key)
        copied = {"x-amz-copy-source": f"/{storage.bucket}/{source}"}
        plain_http.send("PUT", url, sent | copied, WRONG)
        shown = plain_http.send("GET", storage.urls.get(key, "attachment", URL_SECONDS))
    if is_open:
        return failed("Everybody can read the bucket, without a signed URL. Make it private.")
    if shown.body == BODY and storage.has_other_buckets():
        return failed(
            "Storage obeys x-amz-copy-source where it is not signed: senders can copy files out of "
            "every bucket that the access key may read, and download them. Give Beeline an access "
            "key of its own, which owns this bucket only."
        )
    if is_published:
        return warning(
            "Storage obeys x-amz-acl where it is not signed: senders can let everybody read what "
            "they send, even after it has expired. Let the bucket ignore that (aws s3api "
            f"put-public-access-block --bucket {storage.bucket} "
            "--public-access-block-configuration IgnorePublicAcls=true)."
        )
    return ok("By a signed URL senders get at no other bucket, and publish nothing.")


@_told
def forms() -> Finding:
    """Whether a small file can be sent by a form, and nothing that its policy forbids."""
    with _key_of_object() as key:
        form = storage.urls.post_form(key, OBJECT_TYPE, len(BODY), URL_SECONDS)
        larger = plain_http.post_form(form.url, form.fields, BODY + b".", OBJECT_TYPE)
        reply = plain_http.post_form(form.url, form.fields, BODY, OBJECT_TYPE)
    if reply.status != 201:
        return warning(
            f"Storage takes no files by forms ({_code(reply)}): programs cannot send any by "
            "/files, nor by the forms of /s3. Everything else works without."
        )
    if larger.status == 201:
        return failed(
            "Storage ignores what a form allows: whoever gets one could send files of any size. "
            "Issue no API keys for /files and /s3, or use another store."
        )
    return ok("Storage takes small files by forms, and no larger ones than a form allows.")


@_told
def download() -> Finding:
    """Whether a part of a file can be downloaded under its name, by a URL as browsers get it."""
    through = "CloudFront" if settings.cloudfront_url else "Storage"
    wanted = attachment("doctor.txt")
    with _key_of_object() as key:
        storage.put_object(key, secrets.token_hex(), BODY, OBJECT_TYPE)
        url = storage.urls.get(key, wanted, settings.download_url_ttl_in_seconds)
        reply = plain_http.send("GET", url, {"Range": "bytes=8-17"})
    if reply.status not in (200, 206):
        if not settings.cloudfront_url:
            return _refused("A download", reply)
        return failed(
            f"CloudFront refused a download ({_code(reply)}). Look at the CLOUDFRONT_* settings."
        )
    if (reply.status, reply.body) != (206, BODY[8:18]):
        return failed(
            f"{through} ignores ranges: downloads cannot be resumed, and no zip be made. Use a "
            "store that knows them."
        )
    if reply.headers.get("content-disposition") != wanted:
        return failed(
            f"{through} does not name a download as it was asked to. With CloudFront, its origin "
            "request policy must forward the query strings that docs/operate.md lists under "
            '"Downloads through CloudFront".'
        )
    return ok(f"{through} gives out files, and ranges of them.")


@_told
def cors() -> Finding:
    """Whether browsers let our pages send to storage, and programs such as Uppy read the ETag."""
    asked = {
        "Origin": settings.base_url,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": ",".join(SENT_BY_PAGES),
    }
    with _multipart() as (key, s3_upload_id):
        ((url, headers),) = storage.urls.parts(key, s3_upload_id, [(1, len(BODY))], URL_SECONDS)
        admitted = plain_http.send("OPTIONS", url, asked)
        put = plain_http.send("PUT", url, headers | {"Origin": settings.base_url}, BODY)
    remedy = (
        f"Browsers send nothing from {settings.base_url}. Run `flask storage setup`, which sets "
        "the bucket's CORS rule, or says what to do where the store has no such rules."
    )
    if admitted.status not in (200, 204) or not _allows(
        admitted, "allow-origin", settings.base_url
    ):
        return failed(f"The bucket does not admit our pages (CORS). {remedy}")
    if not (
        _allows(admitted, "allow-methods", "PUT")
        and _allows(admitted, "allow-headers", *SENT_BY_PAGES)
    ):
        return failed(f"The bucket does not admit all that our pages send (CORS). {remedy}")
    if not _allows(put, "allow-origin", settings.base_url):
        return failed(f"Storage's answers cannot be read by our pages (CORS). {remedy}")
    if not _allows(put, "expose-headers", "ETag"):
        return warning(
            "The bucket's CORS rule does not expose ETag, for which Uppy waits for ever. Run "
            "`flask storage setup`."
        )
    return ok(f"Browsers may send files from {settings.base_url}.")


@_told
def lifecycle() -> Finding:
    """Whether the bucket's own rules leave uploads and files alone, and abort what is forgotten."""
    try:
        rules = [one for one in storage.lifecycle_rules() if _concerns_us(one)]
    except Outage:
        raise
    except StorageRefused:
        return warning(
            "The bucket's lifecycle rules may not be read. Give the access key "
            "s3:GetLifecycleConfiguration."
        )
    except Unavailable:
        return ok("This store has no lifecycle rules. The hourly sweep aborts forgotten uploads.")
    kept_days = settings.max_expires_in_days + settings.grace_in_days
    if any(_is_within(kept_days, one.get("Expiration", {})) for one in rules):
        return failed(
            f"A lifecycle rule of the bucket removes files within {kept_days} days, which their "
            "senders may have chosen (MAX_EXPIRES_IN_DAYS). Remove that rule, or give Beeline a "
            "bucket of its own."
        )
    moves = (move for one in rules for move in one.get("Transitions", []))
    if any(one["StorageClass"] in ARCHIVES and _is_within(kept_days, one) for one in moves):
        return failed(
            f"A lifecycle rule of the bucket moves files into an archive within {kept_days} days; "
            "from there they cannot be downloaded. Remove that rule, or give Beeline a bucket of "
            "its own."
        )
    aborted = (one.get("AbortIncompleteMultipartUpload", {}) for one in rules)
    days = min((one["DaysAfterInitiation"] for one in aborted if one), default=None)
    if days is None:
        return warning(
            "The bucket has no lifecycle rule that aborts forgotten uploads. Run `flask storage "
            "setup`; where it says that the store takes none, the hourly sweep is enough."
        )
    if days < bucket_rules.ABORT_AFTER_DAYS:
        return warning(
            f"A lifecycle rule of the bucket ends uploads after {days} days, even those that still "
            "make progress. Run `flask storage setup`, which replaces it."
        )
    return ok("The bucket aborts forgotten uploads, and removes nothing else.")


# -- how ---------------------------------------------------------------------------------------


@contextmanager
def _multipart(
    key: str = "", token: str = "", *, with_crc32: bool = False
) -> Iterator[tuple[str, str]]:
    """A multipart upload, aborted in the end: its key and id. New ones, if none are given."""
    key = key or planning.new_key()
    token = token or secrets.token_hex()
    s3_upload_id = storage.begin_upload(key, token, with_crc32=with_crc32)
    try:
        yield key, s3_upload_id
    finally:
        storage.abort_upload(key, s3_upload_id)


@contextmanager
def _key_of_object() -> Iterator[str]:
    """A key, whose object is deleted in the end, if there is one by then."""
    key = planning.new_key()
    try:
        yield key
    finally:
        if storage.delete([key]):
            raise Unavailable("An error occurred (AccessDenied) when deleting an object.")


def _put_part(
    key: str, s3_upload_id: str, body: bytes, crc32: bytes | None = None
) -> plain_http.Reply:
    crc32s = None if crc32 is None else [crc32]
    ((url, headers),) = storage.urls.parts(key, s3_upload_id, [(1, len(body))], URL_SECONDS, crc32s)
    return plain_http.send("PUT", url, headers, body)


def _crc32(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(CRC32_SIZE, "big")


def _is_public(key: str) -> bool:
    return plain_http.send("GET", storage.urls.plain(key)).status == 200


def _refused(what: str, reply: plain_http.Reply) -> Finding:
    said = f"{what} was refused, signed as browsers get it ({_code(reply)})"
    if _code(reply) == "SignatureDoesNotMatch":
        return failed(f"{said}. {CHANGED_ON_THE_WAY}")
    return failed(_with_remedy(said))


def _code(reply: plain_http.Reply) -> str:
    return code_in(reply.body) or f"status {reply.status}"


def _allows(reply: plain_http.Reply, header: str, *words: str) -> bool:
    """Whether this Access-Control- header allows all of these words, or everything."""
    said = reply.headers.get(f"access-control-{header}", "").lower()
    given = {one.strip() for one in said.split(",")}
    return "*" in given or given.issuperset(word.lower() for word in words)


def _concerns_us(rule: Mapping[str, Any]) -> bool:
    """Whether a lifecycle rule is on and may hold for our objects, which have no tags."""
    condition = rule.get("Filter", {})
    condition = condition.get("And", condition)
    if rule.get("Status") != "Enabled" or condition.keys() & {"Tag", "Tags"}:
        return False
    theirs, ours = condition.get("Prefix", rule.get("Prefix", "")), settings.s3_prefix
    return bool(ours.startswith(theirs) or theirs.startswith(ours))


def _is_within(days: int, action: Mapping[str, Any]) -> bool:
    return "Date" in action or action.get("Days", days + 1) <= days
