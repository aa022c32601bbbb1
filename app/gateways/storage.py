"""Object storage: the only file that makes requests to it and knows S3's limits and pagination.

The clients are in clients.py, the types and errors in s3_answers.py; `storage.urls` (urls.py)
makes the presigned URLs that we give out, without any request.

Permissions of the access key on `arn:aws:s3:::BUCKET/PREFIX*`: s3:PutObject, s3:GetObject,
s3:DeleteObject, s3:AbortMultipartUpload, s3:ListMultipartUploadParts; on the bucket:
s3:ListBucket and s3:ListBucketMultipartUploads (and, for `flask storage setup`, `flask
doctor` and /s3's bucket configuration only, s3:GetBucketCORS, s3:PutBucketCORS,
s3:PutLifecycleConfiguration and s3:GetLifecycleConfiguration).

Nothing here may run while a transaction is open (tests/test_house.py checks that).
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from app import timeouts
from app.circuit import Circuit
from app.config import Settings
from app.errors import Outage, Unavailable
from app.gateways.clients import LONG, PATIENT, QUICK, STEADY, Clients
from app.gateways.http_pool import Answer
from app.gateways.s3_answers import (
    NOT_THERE,
    OBJECT_TYPE,
    TOKEN_FIELD,
    TOKEN_HEADER,
    Away,
    Checksums,
    Listed,
    NoSuchUpload,
    NotThere,
    OpenUpload,
    Part,
    Source,
    SourceLost,
    StorageRefused,
    Stored,
    crc32_in,
    encoded,
    failure_of,
    means_unknown_to_it,
    packed_in,
    token_in,
    translated,
)
from app.gateways.urls import Urls

log = logging.getLogger(__name__)

# Entries on a page of a listing; None is storage's default, 1000.
PAGE_SIZE: int | None = None
DELETE_BATCH = 1000  # https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
CORS_ID = "beeline"
FULL_OBJECT = "FULL_OBJECT"
_VERIFIED = {"ChecksumAlgorithm": "CRC32", "ChecksumType": FULL_OBJECT}
_VERIFIED_HEADERS = {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": FULL_OBJECT}
# After a failure, do not try storage again for this long.
REST_SECONDS = 3.0
# The lifetime of the presigned URLs that we use ourselves, immediately.
OUR_URL_SECONDS = 300
# Waits, in seconds, after each failed attempt of our own reads and writes; one attempt for each.
WAITS = (0.2, 0.8, 2.0, 4.0, 0.0)


class Storage:
    """Our bucket, or the part of it below our prefix."""

    def bind(self, settings: Settings) -> None:
        """Take the settings; opens no connection."""
        self._settings = settings
        self._bucket = settings.s3_bucket
        self._clients = Clients(settings)
        self._circuit = Circuit(REST_SECONDS)
        self._answered = Checksums.UNKNOWN
        self._ask_after = 0.0
        self._asking_lock = threading.Lock()
        self.urls = Urls(settings, self._clients)

    def get_ready(self) -> None:
        """Make all clients now instead of on first use; see Clients.get_ready()."""
        self._clients.get_ready()

    @property
    def _client(self) -> Any:
        return self._clients.quick if timeouts.is_short() else self._clients.steady

    @property
    def _client_for_long_work(self) -> Any:
        """The client for a Complete or a copy: with a long timeout, but one that fits in a request.

        A call that times out may still succeed in storage, so callers must be able to repeat it.
        """
        return self._clients.long if timeouts.is_short() else self._clients.patient

    # -- uploading an object ------------------------------------------------------------------

    def begin_upload(self, key: str, token: str, *, with_crc32: bool = False) -> str:
        """Open a multipart upload and return its id. Not idempotent: each call opens another.

        `with_crc32` makes storage verify each part on arrival, and the whole at the end.
        """
        headers = {"Content-Type": OBJECT_TYPE, TOKEN_HEADER: token}
        if with_crc32:
            headers |= _VERIFIED_HEADERS
        how_often = QUICK if timeouts.is_short() else STEADY
        with self._circuit.guard((Away,), Away()):
            return self._clients.opener.open(key, headers, *how_often)

    def list_parts(self, key: str, s3_upload_id: str) -> list[Part]:
        """Return every part that storage holds, in order; raises NoSuchUpload."""
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=key, UploadId=s3_upload_id
        )
        try:
            with self._asking():
                listed = [part for page in pages for part in page.get("Parts", [])]
        except NotThere as error:
            # Ceph's code for an unknown upload is NoSuchKey.
            raise NoSuchUpload(s3_upload_id) from error
        # SeaweedFS also lists what a part contained before it was sent again.
        listed.sort(key=lambda part: part["LastModified"])
        newest = {part["PartNumber"]: part for part in listed}
        return [
            Part(number, part["Size"], part["ETag"], crc32_in(part))
            for number, part in sorted(newest.items())
        ]

    def finish_upload(
        self, key: str, s3_upload_id: str, parts: Iterable[Part], crc32: bytes | None = None
    ) -> None:
        """Complete the upload with these parts; raises NoSuchUpload and PartsRefused.

        Repeating it may raise NoSuchUpload. With `crc32`, the checksum of the whole, raises Damaged
        if it does not match. S3 can answer 200 with an error in the body; botocore retries those.
        """
        claimed: dict[str, str] = {}
        if crc32 is not None:
            claimed = {"ChecksumCRC32": encoded(crc32), "ChecksumType": FULL_OBJECT}
        with self._asking():
            self._client_for_long_work.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=s3_upload_id,
                MultipartUpload={"Parts": [_listed(part, crc32 is not None) for part in parts]},
                **claimed,
            )

    def abort_upload(self, key: str, s3_upload_id: str) -> None:
        """Abort a multipart upload and drop its parts; succeeds if there is none."""
        try:
            with self._asking():
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=s3_upload_id
                )
        except (NoSuchUpload, NotThere):
            # OpenStack Swift says NoSuchKey of one that was completed.
            return

    def head(self, key: str, *, with_crc32: bool = False) -> Stored | None:
        """Describe the object at the key, or return None; Unavailable if it has no ETag."""
        mode = {"ChecksumMode": "ENABLED"} if with_crc32 else {}
        try:
            with self._asking():
                answer = self._client.head_object(Bucket=self._bucket, Key=key, **mode)
        except NotThere:
            return None
        if "ETag" not in answer:
            raise Unavailable("This storage keeps no ETag of what is uploaded in parts.")
        # A COMPOSITE checksum is one of the parts' checksums, not of the object's bytes.
        is_whole = answer.get("ChecksumType", FULL_OBJECT) == FULL_OBJECT
        return Stored(
            answer["ContentLength"],
            answer["ETag"],
            token_in(answer),
            crc32_in(answer) if is_whole else None,
            packed_in(answer),
        )

    # -- reading, copying and sending bytes ---------------------------------------------------

    def read(self, source: Source, start: int, size: int, *, tries: int = len(WAITS)) -> bytes:
        """Return exactly `size` bytes of an object from byte `start`; raises as read_into().

        They are held in memory: use it for headers, trailers and small files.
        """
        body = bytearray(max(0, size))
        self.read_into(memoryview(body), source, start, tries=tries)
        return bytes(body)

    def read_into(
        self, place: memoryview, source: Source, start: int, *, tries: int = len(WAITS)
    ) -> None:
        """Fill `place` with the bytes of an object from byte `start`.

        Raises SourceLost, and Unavailable, also for a store that ignores ranges: its response,
        the whole object, is not read.
        """
        if not place:
            return
        wanted = f"bytes={start}-{start + len(place) - 1}"
        headers = {"Range": wanted, "If-Match": source.etag}
        with self._circuit.guard((Away,), Away()):
            for wait in WAITS[-tries:]:
                # Signed again for each attempt, so that the URL cannot expire while we wait.
                url = self._clients.ours.url("GET", source.key, expires_in=OUR_URL_SECONDS)
                answer = self._get(url, headers, place)
                if answer.status == 206 and answer.size == len(place):
                    return
                if answer.status in (404, 412, 416):
                    raise SourceLost(source.key)
                if answer.status == 403:
                    log.error("storage refuses to let us read")
                    raise StorageRefused
                if answer.status == 200:
                    raise Unavailable("This storage does not know ranges.")
                time.sleep(wait)
            raise Away

    def _get(self, url: str, headers: Mapping[str, str], place: memoryview) -> Answer:
        return self._clients.lines.get(url, headers, place)

    def copy_part(
        self, key: str, s3_upload_id: str, number: int, source: Source, start: int, size: int
    ) -> None:
        """Copy a range of another object into a part, within storage. Repeatable.

        S3 requires at least 5 MiB for all but the last part. Raises NoSuchUpload, SourceLost,
        NotOffered.
        """
        try:
            with self._asking():
                self._client_for_long_work.upload_part_copy(
                    Bucket=self._bucket,
                    Key=key,
                    UploadId=s3_upload_id,
                    PartNumber=number,
                    CopySource={"Bucket": self._bucket, "Key": source.key},
                    CopySourceIfMatch=source.etag,
                    CopySourceRange=f"bytes={start}-{start + size - 1}",
                )
        except NotThere as error:
            raise SourceLost(source.key) from error

    def copy_whole(self, source: Source, key: str, token: str) -> None:
        """Copy an object of at most 5 GiB within storage, as one of OBJECT_TYPE. Repeatable.

        Raises SourceLost if the source is gone or was replaced; NotOffered.
        """
        try:
            with self._asking():
                self._client_for_long_work.copy_object(
                    Bucket=self._bucket,
                    Key=key,
                    CopySource={"Bucket": self._bucket, "Key": source.key},
                    CopySourceIfMatch=source.etag,
                    MetadataDirective="REPLACE",
                    Metadata={TOKEN_FIELD: token},
                    ContentType=OBJECT_TYPE,
                )
        except NotThere as error:
            raise SourceLost(source.key) from error

    def put_part(
        self, key: str, s3_upload_id: str, number: int, body: memoryview | IO[bytes]
    ) -> None:
        """Upload one part ourselves, a file from its beginning; raises NoSuchUpload. Repeatable."""
        query = {"partNumber": str(number), "uploadId": s3_upload_id}
        seconds, tries = LONG if timeouts.is_short() else PATIENT
        with self._circuit.guard((Away,), Away()):
            for wait in WAITS[-tries:]:
                url = self._clients.ours.url("PUT", key, query=query, expires_in=OUR_URL_SECONDS)
                answer = self._put(url, body, seconds)
                if answer.status == 200:
                    return
                failure = failure_of(answer)
                if not isinstance(failure, Away):
                    raise failure
                time.sleep(wait)
            raise Away

    def _put(self, url: str, body: memoryview | IO[bytes], seconds: float) -> Answer:
        return self._clients.lines.put(url, body, seconds)

    def put_object(self, key: str, token: str, body: bytes, content_type: str) -> str:
        """Store a small object of our own and return its ETag. Repeatable."""
        with self._asking():
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=body,
                ContentType=content_type,
                Metadata={TOKEN_FIELD: token},
            )
        etag: str = answer["ETag"]
        return etag

    # -- many objects -------------------------------------------------------------------------

    def delete(self, keys: Iterable[str]) -> list[str]:
        """Delete objects and return the keys that storage refused to delete; for jobs only.

        Missing objects count as deleted. Repeatable.
        """
        refused: list[str] = []
        remaining = list(keys)
        while remaining:
            batch, remaining = remaining[:DELETE_BATCH], remaining[DELETE_BATCH:]
            with self._asking():
                answer = self._clients.bulk.delete_objects(
                    Bucket=self._bucket,
                    Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True},
                )
            refused += [error["Key"] for error in answer.get("Errors", [])]
        return refused

    def open_uploads(self) -> Iterator[list[OpenUpload]]:
        """Yield the multipart uploads below our prefix, a page (up to 1000) at a time."""
        for found in self._listed("list_multipart_uploads", "Uploads"):
            yield [OpenUpload(one["Key"], one["UploadId"], one["Initiated"]) for one in found]

    def objects(self, after: str = "") -> Iterator[list[Listed]]:
        """Yield the objects below our prefix, a page (up to 1000) at a time.

        With `after`, only those whose keys sort after it.
        """
        beginning = {"StartAfter": after} if after else {}
        for page in self._listed("list_objects_v2", "Contents", **beginning):
            # Not every store that calls itself S3 honours StartAfter.
            found = [one for one in page if one["Key"] > after]
            yield [Listed(one["Key"], one["Size"], one["LastModified"]) for one in found]

    def _listed(self, operation: str, name: str, **given: str) -> Iterator[list[Any]]:
        """Yield a listing page by page; the circuit guards each page and not what its reader does.

        Entries outside our prefix are dropped here too: the caller may be about to delete, and not
        every store that calls itself S3 honours the Prefix parameter.
        """
        prefix = self._settings.s3_prefix
        pages = iter(
            self._client.get_paginator(operation).paginate(
                Bucket=self._bucket,
                Prefix=prefix,
                PaginationConfig={"PageSize": PAGE_SIZE},
                **given,
            )
        )
        while True:
            with self._asking():
                page = next(pages, None)
            if page is None:
                return
            yield [one for one in page.get(name, []) if one["Key"].startswith(prefix)]

    # -- the bucket itself --------------------------------------------------------------------

    def check(self) -> None:
        """Raise Unavailable unless the bucket answers."""
        with self._asking():
            self._client.head_bucket(Bucket=self._bucket)

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._bucket

    def has_other_buckets(self) -> bool:
        """Whether storage lists other buckets for our access key; False if it may list none."""
        try:
            with self._asking():
                found = self._client.list_buckets()["Buckets"]
        except StorageRefused:
            return False
        return any(one["Name"] != self._bucket for one in found)

    def cors_rules(self) -> list[dict[str, Any]]:
        """Return the bucket's CORS rules as S3 has them; empty if there is no configuration."""
        try:
            with self._asking():
                answer = self._client.get_bucket_cors(Bucket=self._bucket)
        except NotThere:
            return []
        # A store that knows no such rules may answer with what it would without "?cors".
        return list(answer.get("CORSRules", []))

    def set_cors_rules(self, rules: Sequence[Mapping[str, Any]], origins: list[str]) -> None:
        """Replace the bucket's CORS rules by the one that our own pages need and these."""
        others = [rule for rule in rules if rule.get("ID") != CORS_ID]
        with self._asking():
            self._client.put_bucket_cors(
                Bucket=self._bucket,
                CORSConfiguration={"CORSRules": [_cors_rule(origins), *others]},
            )

    def setup(self, origins: list[str], abort_after_days: int) -> list[str]:
        """Create the bucket if missing and set its CORS and lifecycle rules; repeatable.

        Returns which of the two, "CORS" and "lifecycle", this store does not support: there CORS
        and the removal of incomplete uploads are configured by settings of its own.

        CORS rules that are not ours stay: other sites' pages upload here with them.

        The lifecycle rule is the backstop for multipart uploads that our own sweep never saw; it
        counts from the start of an upload, so it must be longer than any upload may take.
        """
        with self._asking():
            self._create_bucket()
        rules: dict[str, Callable[[], None]] = {
            "CORS": lambda: self.set_cors_rules(self._rules_that_stay(), origins),
            "lifecycle": lambda: self._set_lifecycle(abort_after_days),
        }
        return [name for name, set_rule in rules.items() if not _is_taken(name, set_rule)]

    def lifecycle_rules(self) -> list[dict[str, Any]]:
        """Return the bucket's lifecycle rules as S3 has them; empty if there are none."""
        try:
            with self._asking():
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket)
        except NotThere:
            return []
        return list(answer.get("Rules", []))

    def _set_lifecycle(self, abort_after_days: int) -> None:
        with self._asking():
            self._client.put_bucket_lifecycle_configuration(
                Bucket=self._bucket,
                LifecycleConfiguration={
                    "Rules": [
                        {
                            "ID": "beeline-abort-incomplete-uploads",
                            "Status": "Enabled",
                            "Filter": {"Prefix": self._settings.s3_prefix},
                            "AbortIncompleteMultipartUpload": {
                                "DaysAfterInitiation": abort_after_days
                            },
                        }
                    ]
                },
            )

    def _rules_that_stay(self) -> list[dict[str, Any]]:
        try:
            return self.cors_rules()
        except Outage:
            raise
        except Unavailable:
            # No permission to read them, or a store that cannot return them: set only ours.
            log.warning("the bucket's CORS rules cannot be read: only ours will be there")
            return []

    def _create_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in NOT_THERE:
                raise
            region = self._settings.s3_region
            where: dict[str, Any] = {}
            if region != "us-east-1":  # the only region that must not be named here
                where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
            self._client.create_bucket(Bucket=self._bucket, **where)

    # -- what the store can do ----------------------------------------------------------------

    @property
    def checksums(self) -> Checksums:
        """Whether parts can be sent with their CRC32, as far as is known; makes no request."""
        return {"on": Checksums.YES, "off": Checksums.OFF}.get(
            self._settings.s3_checksums, self._answered
        )

    @property
    def wants_equal_parts(self) -> bool:
        """Whether all parts but the last must be of equal size."""
        host = urlsplit(self._clients.ours.origin).hostname or ""
        is_known = host.endswith(".r2.cloudflarestorage.com")
        return {"on": True, "off": False}.get(self._settings.s3_equal_parts, is_known)

    def ask_checksums(self) -> Checksums:
        """Return `checksums`, after probing storage if this process has not done so yet.

        The probe opens a multipart upload and checks what storage answers, then aborts it; should
        that fail, the sweep of unknown uploads removes it. While storage does not answer, the
        result stays UNKNOWN and the probe is repeated after REST_SECONDS. Never raises.
        """
        # Only one thread probes; others wait for it for a moment, then go on without a result.
        if self.checksums is Checksums.UNKNOWN and self._asking_lock.acquire(timeout=REST_SECONDS):
            try:
                if self.checksums is Checksums.UNKNOWN and time.monotonic() >= self._ask_after:
                    self._answered = self._probe()
            except (Unavailable, NotThere):
                self._ask_after = time.monotonic() + REST_SECONDS
            finally:
                self._asking_lock.release()
        return self.checksums

    def _probe(self) -> Checksums:
        key = f"{self._settings.s3_prefix}{secrets.token_hex(20)}"
        with self._asking():
            try:
                answer = self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=key, **_VERIFIED
                )
            except ClientError as error:
                if means_unknown_to_it(error):
                    return Checksums.NO
                raise
        with suppress(Unavailable):
            self.abort_upload(key, answer["UploadId"])
        # A store without support may silently ignore the parameters; one that supports only
        # COMPOSITE cannot verify the whole.
        echoed = {name: answer.get(name) for name in _VERIFIED}
        return Checksums.YES if echoed == _VERIFIED else Checksums.NO

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Guard by the circuit and translate botocore's errors, here and nowhere else."""
        with self._circuit.guard((Away,), Away()):
            try:
                yield
            except ClientError as error:
                raise translated(error) from error
            except BotoCoreError as error:
                raise Away from error


def _is_taken(name: str, set_rule: Callable[[], None]) -> bool:
    """Set a rule; False if storage does not support it. Raises Outage and StorageRefused."""
    try:
        set_rule()
    except (Outage, StorageRefused):
        raise
    except Unavailable as error:
        # MinIO answers NotImplemented for CORS, InvalidArgument (once MalformedXML) for lifecycle.
        log.warning("storage takes no %s rule of ours: %s", name, error)
        return False
    return True


def _cors_rule(origins: list[str]) -> Mapping[str, Any]:
    return {
        "ID": CORS_ID,
        "AllowedOrigins": origins,
        "AllowedMethods": ["PUT", "POST", "GET", "HEAD"],
        "AllowedHeaders": ["*"],
        # Uppy 5 waits forever for an ETag that it is not allowed to read.
        "ExposeHeaders": ["ETag", "Location"],
        "MaxAgeSeconds": 3600,
    }


def _listed(part: Part, with_crc32: bool) -> dict[str, Any]:
    """Describe a part for Complete; with its checksum, S3 refuses a part that changed since."""
    named: dict[str, Any] = {"PartNumber": part.number, "ETag": part.etag}
    if with_crc32 and part.crc32 is not None:
        named["ChecksumCRC32"] = encoded(part.crc32)
    return named
