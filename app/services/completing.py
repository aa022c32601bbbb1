"""Completing one object from what storage holds of it, and knowing it again after it was copied.

Storage is believed, never the client: an upload is complete when storage's own list of parts, the
size and the token say so. Every operation here may be repeated.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, update

from app import crash
from app.crc32 import combine
from app.db import db, release, transaction
from app.extensions import storage
from app.gateways.s3_answers import Damaged, NoSuchUpload, SourceLost, Stored
from app.models import Method, Problem, Upload, UploadState
from app.parallel import each
from app.services import uploads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of completing one upload: an ETag, or the problem and the missing parts.

    `crc32` is the whole file's, if its plan has checksums.
    """

    upload_id: uuid.UUID
    etag: str | None = None
    crc32: bytes | None = None
    problem: Problem | None = None
    missing: tuple[int, ...] = ()


def complete_all(rows: Sequence[Upload]) -> list[Outcome]:
    """Complete and verify each, many in flight; repeating it gives the same outcomes.

    Raises errors.Unavailable if storage does not answer: then the outcome is unknown, and the
    caller tries again later.
    """
    return each(rows, complete)


def complete(upload: Upload, sizes: Sequence[int] | None = None) -> Outcome:
    """Make one upload's object final, and believe only what storage then says of it.

    `sizes` are the parts' sizes, where they are not equal.
    """
    if upload.method is Method.SINGLE:
        return _verify(upload)
    if upload.s3_upload_id is None:
        return Outcome(upload.id, problem=Problem.MISSING, missing=uploads.numbers_of(upload))
    try:
        return _complete_multipart(upload, sizes)
    except NoSuchUpload:
        # Perhaps completed before, and only the answer was lost: verify the object that is there.
        return _verify(upload, was_complete=True)


def _complete_multipart(upload: Upload, sizes: Sequence[int] | None) -> Outcome:
    parts = uploads.held_parts(upload, sizes)
    planned = uploads.numbers_of(upload) if sizes is None else range(1, len(sizes) + 1)
    missing = sorted(set(planned) - {part.number for part in parts})
    if missing:
        return Outcome(upload.id, problem=Problem.MISSING, missing=tuple(missing))
    known = [(part.crc32, part.size) for part in parts if part.crc32 is not None]
    # Of a verified upload these are all parts, or none where storage lists no checksums.
    crc32 = combine(known) if uploads.is_verified(upload) and known else None
    # S3 would silently build a shorter object from an incomplete list: hence the check above.
    try:
        storage.finish_upload(*uploads.address_of(upload), parts, crc32)
    except Damaged:
        log.error("parts do not come to their whole", extra={"upload": str(upload.id)})
        return Outcome(upload.id, problem=Problem.DAMAGED)
    crash.point("process.2")
    return _verify(upload, crc32)


def _verify(
    upload: Upload, combined: bytes | None = None, *, was_complete: bool = False
) -> Outcome:
    """Accept the object if it is the upload's; `combined` is the CRC32 of its parts together.

    If it `was_complete` before, the list of its parts is gone.
    """
    stored = uploads.stored_of(upload)
    if stored is None:
        never_came = upload.method is Method.SINGLE
        problem = Problem.MISSING if never_came else Problem.LOST
        return Outcome(upload.id, problem=problem, missing=uploads.numbers_of(upload))
    if stored.token != upload.token:
        log.error("a foreign object lies at an upload's key", extra={"upload": str(upload.id)})
        return Outcome(upload.id, problem=Problem.LOST)
    if stored.size != upload.size:
        return Outcome(upload.id, problem=Problem.WRONG_SIZE)
    if stored.is_packed:
        # Content-Encoding is not signed, and a browser would decode the object to another file.
        log.error("an object says that it is packed", extra={"upload": str(upload.id)})
        return Outcome(upload.id, problem=Problem.DAMAGED)
    return _with_crc32(upload, stored, combined, was_complete)


def _with_crc32(
    upload: Upload, stored: Stored, combined: bytes | None, was_complete: bool
) -> Outcome:
    """Compare the checksum that storage reports for the whole, if any, with that of its parts.

    If it reports none (some know only a checksum of checksums, "AAAAAA==-3"), that of the parts
    counts: storage verified each on arrival, and Complete named each with its ETag and checksum, so
    the object is exactly these parts, and its CRC32 follows from theirs by arithmetic. If
    Complete's answer was lost as well, so is the list: then the object is as sound, but its
    checksum is unknown. Where storage lists no checksums, or there is no list (a single PUT), it
    must report that of the whole.
    """
    if not uploads.is_verified(upload):
        return Outcome(upload.id, etag=stored.etag)
    is_unproven = not was_complete and stored.crc32 is combined is None
    if is_unproven or _is_another(stored.crc32, combined):
        log.error("storage does not confirm a checksum", extra={"upload": str(upload.id)})
        return Outcome(upload.id, problem=Problem.DAMAGED)
    return Outcome(upload.id, etag=stored.etag, crc32=stored.crc32 or combined)


def copy_at(upload: Upload) -> Stored | None:
    """The copy that storage holds at the key of an upload that only we copy to, if any."""
    stored = storage.head(upload.key)
    return stored if stored and stored.token == upload.token else None


def copied_anew(rows: Sequence[Upload]) -> list[tuple[Upload, Stored]]:
    """Those of these complete uploads whose object has another ETag than their row.

    Copying a bucket may split its objects into other parts, and an ETag depends on the parts. Asks
    storage about each; raises SourceLost for an object that is gone, or is not the upload's.
    """
    release()
    copied = []
    for upload, stored in zip(rows, each(rows, uploads.stored_of), strict=True):
        if stored is None or not uploads.is_ours(upload, stored):
            raise SourceLost(upload.key)
        if _is_another(stored.crc32, upload.crc32):
            raise SourceLost(upload.key)
        if stored.etag != upload.etag:
            copied.append((upload, stored))
    return copied


def note_copied(copied: Sequence[tuple[Upload, Stored]]) -> None:
    """Record the new ETags that copied_anew() has found. Repeatable.

    A CRC32 that storage does not confirm is cleared, so that the object is read again.
    """
    log.warning("objects have been copied: their ETags are others", extra={"count": len(copied)})
    etags = {upload.id: stored.etag for upload, stored in copied}
    proven = [upload.id for upload, stored in copied if stored.crc32 is not None]
    with transaction():
        db.session.execute(
            update(Upload)
            .where(Upload.id.in_(etags), Upload.state == UploadState.COMPLETE)
            .values(
                etag=case(etags, value=Upload.id),
                crc32=case((Upload.id.in_(proven), Upload.crc32)),
            )
            .execution_options(synchronize_session=False)
        )


def note_if_copied(upload: Upload) -> bool:
    """After SourceLost: if the object was only copied anew, record its ETag, so that it is found.

    Returns whether it was; False for an upload that is not complete. Raises Unavailable.
    """
    try:
        copied = copied_anew([upload])
    except SourceLost:
        return False
    if not copied or upload.state is not UploadState.COMPLETE:
        return False
    note_copied(copied)
    return True


def _is_another(crc32: bytes | None, expected: bytes | None) -> bool:
    """Whether both checksums are known and differ."""
    return None not in (crc32, expected) and crc32 != expected
