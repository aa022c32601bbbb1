"""What is stored and how it changes: each public method is one transaction on the index.

A part or an object is durable when its method returns. Blobs are written before they are recorded
and removed after their record is gone, so a crash can only leave unreferenced files: those are
removed at the next start. Nothing here is about HTTP.
"""

import fcntl
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from embedded.s3.blobs import Blob, Blobs, BlobStream, BlobWriter, Span, sync_folder
from embedded.s3.errors import S3Error
from embedded.s3.index import Index
from embedded.s3.listing import Bound, Page, successor, walk

log = logging.getLogger(__name__)
Record = TypeVar("Record")
PART_COLUMNS = "part.number, part.modified_at, blob.*"


@dataclass(frozen=True)
class Bucket:
    """A bucket; `cors` and `lifecycle` are XML documents, empty if not set."""

    name: str
    region: str
    created_at: int
    cors: str
    lifecycle: str


@dataclass(frozen=True)
class Object:
    """An object; `headers` are sent with it, `upload_id` is empty unless it was made of parts."""

    id: int
    bucket: str
    key: str
    size: int
    etag: str
    modified_at: int
    headers: dict[str, str]
    algorithm: str
    checksum_type: str
    checksum: str
    upload_id: str


@dataclass(frozen=True)
class Upload:
    """An open multipart upload; `headers` are those of the object to come."""

    id: str
    bucket: str
    key: str
    initiated_at: int
    headers: dict[str, str]
    algorithm: str
    checksum_type: str


@dataclass(frozen=True)
class Part:
    """A part of an open upload; `modified_at` is in milliseconds since the epoch."""

    number: int
    modified_at: int
    blob: Blob


@dataclass(frozen=True)
class Draft:
    """The properties of an object that is about to be recorded."""

    etag: str
    headers: dict[str, str]
    algorithm: str = ""
    checksum_type: str = ""
    checksum: str = ""
    upload_id: str = ""


@dataclass(frozen=True)
class Precondition:
    """If-Match and If-None-Match of a write, checked in the transaction that writes."""

    if_match: str = ""
    if_none_match: str = ""

    def check(self, found: Object | None) -> None:
        """Raise PreconditionFailed or NoSuchKey unless `found` fulfils the conditions."""
        if self.if_none_match and found:
            raise failed_precondition("If-None-Match")
        if not self.if_match:
            return
        if found is None:
            raise no_such_key()
        if self.if_match.strip('"') not in ("*", found.etag):
            raise failed_precondition("If-Match")


class Store:
    """Buckets, objects and open uploads in one folder, which it locks.

    Raises OSError if another process has the folder. Without `sync`, a crash of the machine may
    lose data.
    """

    def __init__(self, folder: Path, sync: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock_file.close()
            raise OSError(f"{folder} is in use by another process") from error
        self._index = Index(folder / "index.sqlite3", sync)
        self._blobs = Blobs(folder / "blobs", sync)
        sync_folder(folder)
        self._sweep()

    def close(self) -> None:
        """Close the index and unlock the folder; the store must not be in use."""
        self._blobs.close()
        self._index.close()
        self._lock_file.close()

    # Buckets

    def create_bucket(self, name: str, region: str) -> bool:
        """Create the bucket; True if it is new, False if it existed."""
        with self._index.writing() as db:
            return bool(
                db.execute(
                    "INSERT OR IGNORE INTO bucket (name, region, created_at) VALUES (?, ?, ?)",
                    (name, region, now_ms()),
                ).rowcount
            )

    def find_bucket(self, name: str) -> Bucket | None:
        with self._index.reading() as db:
            row = db.execute("SELECT * FROM bucket WHERE name = ?", (name,)).fetchone()
        return Bucket(**row) if row else None

    def buckets(self) -> list[Bucket]:
        """All buckets, by name."""
        with self._index.reading() as db:
            return [Bucket(**row) for row in db.execute("SELECT * FROM bucket ORDER BY name")]

    def delete_bucket(self, name: str) -> None:
        """Remove an empty bucket and its open uploads; BucketNotEmpty if it has objects."""
        with self._change() as change:
            if change.db.execute("SELECT 1 FROM object WHERE bucket = ?", (name,)).fetchone():
                message = "The bucket you tried to delete is not empty"
                raise S3Error("BucketNotEmpty", message, BucketName=name)
            query = "SELECT id FROM upload WHERE bucket = ?"
            for row in change.db.execute(query, (name,)).fetchall():
                change.release_upload(row["id"])
            change.db.execute("DELETE FROM bucket WHERE name = ?", (name,))

    def set_cors(self, bucket: str, document: str) -> None:
        """Set the bucket's CORS document; an empty one removes it."""
        with self._index.writing() as db:
            db.execute("UPDATE bucket SET cors = ? WHERE name = ?", (document, bucket))

    def set_lifecycle(self, bucket: str, document: str) -> None:
        """Set the bucket's lifecycle document; an empty one removes it."""
        with self._index.writing() as db:
            db.execute("UPDATE bucket SET lifecycle = ? WHERE name = ?", (document, bucket))

    # Objects

    def new_blob(self) -> BlobWriter:
        """A writer for a new blob, which is removed again unless it gets recorded."""
        return self._blobs.writer()

    def find_object(self, bucket: str, key: str) -> Object | None:
        with self._index.reading() as db:
            return _find_object(db, bucket, key)

    def open_object(
        self, bucket: str, key: str, pick: Callable[[Object], range]
    ) -> tuple[Object, range, BlobStream]:
        """The object, the range that `pick` chooses, and a stream of it, which must be closed."""
        with self._blobs.lock, self._index.reading() as db:
            found = _find_object(db, bucket, key)
            if found is None:
                raise no_such_key()
            wanted = pick(found)
            spans = list(_spans(db, found, wanted))
            self._blobs.pin(span.name for span in spans)
        return found, wanted, BlobStream(self._blobs, spans)

    def put_object(
        self,
        bucket: str,
        key: str,
        draft: Draft,
        writer: BlobWriter,
        blob: Blob,
        when: Precondition,
    ) -> Object:
        """Record a sealed blob as the object, replacing an existing one."""
        with self._change() as change:
            when.check(_find_object(change.db, bucket, key))
            change.add_blob(writer, blob)
            return change.replace_object(bucket, key, draft, [(blob.name, blob.size)])

    def copy_object(
        self, source: tuple[str, str], bucket: str, key: str,
        draft: Callable[[Object], Draft], when: Precondition,
    ) -> Object:  # fmt: skip
        """Make an object that refers to the source's blobs; no bytes are copied."""
        with self._change() as change:
            found = _find_object(change.db, *source)
            if found is None:
                raise no_such_key()
            when.check(_find_object(change.db, bucket, key))
            rows = change.db.execute(
                "SELECT blob, size FROM segment WHERE object_id = ? ORDER BY number", (found.id,)
            )
            segments = [tuple(row) for row in rows]
            return change.replace_object(bucket, key, draft(found), segments)

    def delete_object(self, bucket: str, key: str, when: Precondition) -> None:
        """Delete the object; a missing one is no error unless `when` requires it."""
        with self._change() as change:
            when.check(_find_object(change.db, bucket, key))
            change.remove_objects(bucket, [key])

    def delete_objects(self, bucket: str, keys: list[str]) -> None:
        """Delete those of the objects that exist, in one transaction."""
        with self._change() as change:
            change.remove_objects(bucket, keys)

    def list_objects(
        self, bucket: str, prefix: str, delimiter: str, bound: Bound, limit: int
    ) -> Page:
        """A page of objects after `bound`, grouped by `delimiter`; see listing.walk()."""
        columns = "key, 'object' AS id, size, etag, modified_at, algorithm, checksum_type"
        return self._list("object", columns, "'object'", bucket, prefix, delimiter, bound, limit)

    # Uploads

    def create_upload(
        self, bucket: str, key: str, headers: dict[str, str], algorithm: str, checksum_type: str
    ) -> str:
        """Create an upload and return its id; ids sort by time, as lists of uploads must."""
        upload_id = f"{time.time_ns():016x}{secrets.token_hex(16)}"
        with self._index.writing() as db:
            db.execute(
                "INSERT INTO upload VALUES (?, ?, ?, ?, ?, ?, ?)",
                (upload_id, bucket, key, now_ms(), json.dumps(headers), algorithm, checksum_type),
            )
        return upload_id

    def find_upload(self, bucket: str, key: str, upload_id: str) -> Upload:
        """The open upload, or NoSuchUpload."""
        with self._index.reading() as db:
            return _find_upload(db, bucket, key, upload_id)

    def put_part(self, upload: Upload, number: int, writer: BlobWriter, blob: Blob) -> Part:
        """Record a sealed blob as the part; NoSuchUpload if the upload has ended meanwhile."""
        with self._change() as change:
            _find_upload(change.db, upload.bucket, upload.key, upload.id)
            change.add_blob(writer, blob)
            return change.replace_part(upload.id, number, blob)

    def refer_part(
        self, upload: Upload, number: int, source: tuple[str, str], etag: str, wanted: range
    ) -> Part | None:
        """Make a part by reference to a blob that is exactly the wanted range of the source.

        None if there is no such blob, if the source has changed, or if the blob lacks the checksum
        that the upload needs.
        """
        with self._change() as change:
            _find_upload(change.db, upload.bucket, upload.key, upload.id)
            found = _find_object(change.db, *source)
            if found is None or found.etag != etag:
                return None
            row = change.db.execute(
                "SELECT blob.* FROM segment JOIN blob ON blob.name = segment.blob "
                "WHERE object_id = ? AND start = ? AND segment.size = ?",
                (found.id, wanted.start, len(wanted)),
            ).fetchone()
            if row is None or (upload.algorithm and row[upload.algorithm] is None):
                return None
            return change.replace_part(upload.id, number, Blob(**row))

    def list_parts(self, upload: Upload, after: int, limit: int) -> list[Part]:
        """At most `limit` parts of the upload with numbers greater than `after`."""
        with self._index.reading() as db:
            return _parts(db, upload.id, after, limit)

    def complete_upload(
        self, bucket: str, key: str, upload_id: str,
        assemble: Callable[[Upload, dict[int, Part]], tuple[Draft, list[Part]]],
        when: Precondition,
    ) -> Object:  # fmt: skip
        """Replace the upload by an object of the parts that `assemble` chooses, in one commit.

        NoSuchUpload if the upload is gone already.
        """
        with self._change() as change:
            upload = _find_upload(change.db, bucket, key, upload_id)
            held = {part.number: part for part in _parts(change.db, upload_id, 0, -1)}
            draft, chosen = assemble(upload, held)
            when.check(_find_object(change.db, bucket, key))
            segments = [(part.blob.name, part.blob.size) for part in chosen]
            stored = change.replace_object(bucket, key, draft, segments)
            change.release_upload(upload_id)
            return stored

    def abort_upload(self, bucket: str, key: str, upload_id: str) -> None:
        """Remove the upload and its parts, or NoSuchUpload."""
        with self._change() as change:
            _find_upload(change.db, bucket, key, upload_id)
            change.release_upload(upload_id)

    def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, bound: Bound, limit: int
    ) -> Page:
        """A page of open uploads after `bound`, grouped by `delimiter`; see listing.walk()."""
        return self._list("upload", "*", "id", bucket, prefix, delimiter, bound, limit)

    def _list(
        self, table: str, columns: str, row_id: str,
        bucket: str, prefix: str, delimiter: str, bound: Bound, limit: int,
    ) -> Page:  # fmt: skip
        query = (
            f"SELECT {columns} FROM {table} WHERE bucket = ? AND key >= ? "  # noqa: S608
            f"AND (key > ? OR {row_id} > ?) AND (? = '' OR key < ?) ORDER BY key, id"
        )
        end = successor(prefix)
        with self._index.reading() as db:

            def fetch(bound: Bound) -> Iterator[sqlite3.Row]:
                key, after_id = max(bound, (prefix, ""))
                return iter(db.execute(query, (bucket, key, key, after_id, end, end)))

            return walk(fetch, prefix, delimiter, bound, limit)

    def _sweep(self) -> None:
        with self._index.reading() as db:
            known = {row["name"] for row in db.execute("SELECT name FROM blob")}
        removed, missing = self._blobs.sweep(known)
        if removed:
            log.warning("removed %d files of unfinished uploads", removed)
        if missing:
            log.error("%d files that the index knows are missing", missing)

    @contextmanager
    def _change(self) -> Iterator["Change"]:
        """A transaction; files that it left unreferenced are removed after the commit."""
        with self._index.writing() as db:
            change = Change(db)
            yield change
            unused = change.forget_unused()
        for writer in change.writers:
            writer.kept = True
        self._blobs.discard(unused)


class Change:
    """The statements of one write transaction, and the blobs that they may have left unused."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.writers: list[BlobWriter] = []
        self._released: set[str] = set()

    def add_blob(self, writer: BlobWriter, blob: Blob) -> None:
        """Record a sealed blob; its writer keeps the file once this is committed."""
        self.writers.append(writer)
        values = [getattr(blob, column.name) for column in fields(blob)]
        self.db.execute("INSERT INTO blob VALUES (?, ?, ?, ?, ?, ?)", values)

    def replace_object(
        self, bucket: str, key: str, draft: Draft, segments: list[tuple[str, int]]
    ) -> Object:
        """Record an object made of (blob, size) segments, replacing an existing one."""
        self.remove_objects(bucket, [key])
        size = sum(size for _, size in segments)
        row = self.db.execute(
            "INSERT INTO object VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
            (
                *(bucket, key, size, draft.etag, now_ms(), json.dumps(draft.headers)),
                *(draft.algorithm, draft.checksum_type, draft.checksum, draft.upload_id),
            ),
        ).fetchone()
        starts = accumulate((size for _, size in segments), initial=0)
        rows = [
            (row["id"], number, start, size, name)
            for number, (start, (name, size)) in enumerate(zip(starts, segments, strict=False), 1)
        ]
        self.db.executemany("INSERT INTO segment VALUES (?, ?, ?, ?, ?)", rows)
        return _record(Object, row)

    def remove_objects(self, bucket: str, keys: list[str]) -> None:
        """Delete those of the objects that exist, and release their blobs.

        The number of statements does not depend on the number of keys: lists go in and out as JSON.
        A result row per key would hand over the interpreter's lock as often. Cascading would delete
        the segments too, but more slowly.
        """
        ids, blobs = self.db.execute(
            "SELECT json_group_array(DISTINCT id), "
            "json_group_array(blob) FILTER (WHERE blob IS NOT NULL) FROM object "
            "LEFT JOIN segment ON object_id = id "
            "WHERE bucket = ? AND key IN (SELECT value FROM json_each(?))",
            (bucket, json.dumps(keys)),
        ).fetchone()
        self._released.update(json.loads(blobs))
        for delete in (
            "DELETE FROM segment WHERE object_id IN (SELECT value FROM json_each(?))",
            "DELETE FROM object WHERE id IN (SELECT value FROM json_each(?))",
        ):
            self.db.execute(delete, (ids,))

    def replace_part(self, upload_id: str, number: int, blob: Blob) -> Part:
        """Record a blob as the part, and release the blob of the one it replaces."""
        self._release("SELECT blob FROM part WHERE upload_id = ? AND number = ?", upload_id, number)
        part = Part(number, now_ms(), blob)
        self.db.execute(
            "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)",
            (upload_id, number, part.modified_at, blob.name),
        )
        return part

    def release_upload(self, upload_id: str) -> None:
        """Delete the upload and its parts, and release their blobs."""
        self._release("SELECT blob FROM part WHERE upload_id = ?", upload_id)
        self.db.execute("DELETE FROM upload WHERE id = ?", (upload_id,))

    def forget_unused(self) -> set[str]:
        """Delete the rows of released blobs that nothing refers to; returns their names."""
        if not self._released:
            return set()
        (used,) = self.db.execute(
            "SELECT json_group_array(value) FROM json_each(?) "
            "WHERE EXISTS (SELECT 1 FROM segment WHERE blob = value) "
            "OR EXISTS (SELECT 1 FROM part WHERE blob = value)",
            (json.dumps(list(self._released)),),
        ).fetchone()
        unused = self._released.difference(json.loads(used))
        self.db.execute(
            "DELETE FROM blob WHERE name IN (SELECT value FROM json_each(?))",
            (json.dumps(list(unused)),),
        )
        return unused

    def _release(self, query: str, *values: Any) -> None:
        self._released |= {row["blob"] for row in self.db.execute(query, values)}


def no_such_key() -> S3Error:
    return S3Error("NoSuchKey", "The specified key does not exist.")


def failed_precondition(name: str) -> S3Error:
    message = "At least one of the pre-conditions you specified did not hold"
    return S3Error("PreconditionFailed", message, Condition=name)


def now_ms() -> int:
    """The time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _record(kind: type[Record], row: sqlite3.Row) -> Record:
    """A row as a record; its `headers` column is JSON."""
    return kind(**{**dict(row), "headers": json.loads(row["headers"])})


def _find_object(db: sqlite3.Connection, bucket: str, key: str) -> Object | None:
    query = "SELECT * FROM object WHERE bucket = ? AND key = ?"
    row = db.execute(query, (bucket, key)).fetchone()
    return _record(Object, row) if row else None


def _find_upload(db: sqlite3.Connection, bucket: str, key: str, upload_id: str) -> Upload:
    query = "SELECT * FROM upload WHERE id = ? AND bucket = ? AND key = ?"
    row = db.execute(query, (upload_id, bucket, key)).fetchone()
    if row is None:
        raise S3Error(
            "NoSuchUpload",
            "The specified upload does not exist. The upload ID may be invalid, "
            "or the upload may have been aborted or completed.",
            UploadId=upload_id,
        )
    return _record(Upload, row)


def _parts(db: sqlite3.Connection, upload_id: str, after: int, limit: int) -> list[Part]:
    rows = db.execute(
        f"SELECT {PART_COLUMNS} FROM part JOIN blob ON blob.name = part.blob "  # noqa: S608
        "WHERE upload_id = ? AND number > ? ORDER BY number LIMIT ?",
        (upload_id, after, limit),
    )
    return [_part(row) for row in rows]


def _part(row: sqlite3.Row) -> Part:
    number, modified_at, *blob = row
    return Part(number, modified_at, Blob(*blob))


def _spans(db: sqlite3.Connection, found: Object, wanted: range) -> Iterator[Span]:
    rows = db.execute(
        "SELECT start, size, blob FROM segment "
        "WHERE object_id = ? AND start < ? AND start + size > ? ORDER BY number",
        (found.id, wanted.stop, wanted.start),
    )
    for row in rows:
        first = max(wanted.start, row["start"])
        last = min(wanted.stop, row["start"] + row["size"])
        yield Span(row["blob"], first - row["start"], last - first)
