"""One object on its way to S3: beginning it, signing URLs for its parts, asking what is held.

The part geometry is fixed when an upload is planned (planning.py), and completing.py makes the
object final. The network is only used outside transactions, and every operation here may be
repeated.
"""

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Interval,
    Update,
    and_,
    bindparam,
    exists,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm.attributes import set_committed_value

from app import crash, leases
from app.clock import db_now
from app.config import settings
from app.db import ask, changed, db, release, transaction
from app.errors import Invalid, Unavailable, WrongState
from app.extensions import storage
from app.gateways.s3_answers import NoSuchUpload, Part, Source, SourceLost, Stored
from app.models import Batch, File, Method, State, Transfer, Upload, UploadState
from app.parallel import each
from app.services.planning import Begun, Plan, part_count, part_size_of

log = logging.getLogger(__name__)

# How long a note about a running upload stays good, so that a client that asks for URL after URL
# does not cause a write each time: `urls_until` is stored this much later than URLs work, and
# sweeps wait this much longer for the sender.
NOTED_FOR = timedelta(minutes=1)


class SignedPart(NamedTuple):
    """Where to PUT one part, how many bytes it must have, and the headers to send along."""

    number: int
    size: int
    url: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Arrival:
    """What storage has of an upload: the missing part numbers, and how many bytes arrived."""

    missing: tuple[int, ...]
    size: int


# -- sending -----------------------------------------------------------------------------------


def check_numbers(upload: Plan, numbers: Iterable[int], field: str) -> None:
    """Raise WrongState unless the upload is open, Invalid for a part number outside its plan."""
    if upload.state is not UploadState.OPEN:
        raise WrongState("This file has arrived already, or was removed.")
    count = part_count(upload)
    for number in numbers:
        if not 1 <= number <= count:
            raise Invalid({field: f"must be from 1 to {count} for this file"})


def check_crc32s(upload: Plan, crc32s: Sequence[bytes] | None, field: str) -> None:
    """Raise Invalid unless checksums are given if, and only if, the upload's plan wants them."""
    if upload.checksum_algorithm is None and crc32s is not None:
        raise Invalid({field: "must not be given: this file's plan has no checksum_algorithm"})
    if upload.checksum_algorithm is not None and crc32s is None:
        raise Invalid({field: "is required: this file's plan says CRC32"})


def must_begin(upload: Plan) -> bool:
    """Whether it is a multipart upload that has not been opened in storage yet."""
    return upload.method is Method.MULTIPART and upload.s3_upload_id is None


def begin(uploads: Sequence[Upload]) -> None:
    """Open a multipart upload in storage for each that needs one and has none yet.

    Two concurrent callers open two; the row keeps one, and the other is aborted immediately,
    because an orphan costs storage until the bucket's lifecycle rule removes it days later. If one
    cannot be opened, those that were are kept for the next try; then raises errors.Unavailable.
    """
    waiting = [upload for upload in uploads if must_begin(upload)]
    if not waiting:
        return
    release()
    opened, failure = _open(waiting)
    crash.point("begin.1")
    with transaction():
        losers = [(upload, s3_id) for upload, s3_id in opened if not _keep_id(upload, s3_id)]
    crash.point("begin.2")
    each(losers, lambda pair: storage.abort_upload(pair[0].key, pair[1]))
    if failure is not None:
        raise failure
    for upload, _ in losers:
        kept = db.session.scalar(select(Upload.s3_upload_id).where(Upload.id == upload.id))
        if kept is None:
            raise WrongState("This file was removed.")
        set_committed_value(upload, "s3_upload_id", kept)
    if losers:
        release()


def _open(waiting: Sequence[Upload]) -> tuple[list[tuple[Upload, str]], Unavailable | None]:
    """Open a multipart upload for each: those that were opened, and the error of another."""
    failures: list[Unavailable] = []

    def open_one(upload: Upload) -> str | None:
        if failures:  # The others would only wait for the same error.
            return None
        try:
            return storage.begin_upload(upload.key, upload.token, with_crc32=is_verified(upload))
        except Unavailable as failure:
            failures.append(failure)
            return None

    ids = each(waiting, open_one)
    opened = [(upload, s3_id) for upload, s3_id in zip(waiting, ids, strict=True) if s3_id]
    return opened, failures[0] if failures else None


_KEEP_ID = (
    update(Upload)
    .where(
        Upload.id == bindparam("upload"),
        Upload.s3_upload_id.is_(None),
        Upload.state == UploadState.OPEN,
    )
    .values(s3_upload_id=bindparam("begun"))
)


def _keep_id(upload: Upload, s3_upload_id: str) -> bool:
    if ask(_KEEP_ID, {"upload": upload.id, "begun": s3_upload_id}).rowcount == 0:
        return False
    set_committed_value(upload, "s3_upload_id", s3_upload_id)
    return True


def forget_multipart(upload: Upload, part_size: int | None = None) -> None:
    """Forget the multipart upload: the next begin() opens another. Call in transaction().

    With a `part_size`, the next one has parts of that size.
    """
    db.session.execute(_forget([upload]).values(part_size=part_size or upload.part_size))


def _forget(uploads: Sequence[Upload], *conditions: ColumnElement[bool]) -> Update:
    """An UPDATE that forgets those that were not completed or begun again meanwhile.

    Rows are locked in the order of their ids, so that two callers with the same uploads cannot
    deadlock.
    """
    same = tuple_(Upload.id, Upload.s3_upload_id)
    found = (
        select(Upload.id)
        .where(same.in_([(one.id, one.s3_upload_id) for one in uploads]))
        .where(Upload.state == UploadState.OPEN, *conditions)
        .order_by(Upload.id)
        .with_for_update()
        .cte("found")
    )
    return (
        update(Upload)
        .where(Upload.id.in_(select(found.c.id)))
        .values(s3_upload_id=None)
        .execution_options(synchronize_session=False)
    )


def _forget_lost(lost: Sequence[Upload]) -> None:
    """Forget what storage has dropped without an object: sending it begins another.

    The objects passed in are updated, too.
    """
    if not lost:
        return
    log.warning("storage has dropped what was being sent", extra={"count": len(lost)})
    with transaction():
        forgotten = set(db.session.scalars(_forget(lost, _is_being_sent()).returning(Upload.id)))
    for upload in lost:
        if upload.id in forgotten:
            set_committed_value(upload, "s3_upload_id", None)


def _is_being_sent() -> ColumnElement[bool]:
    """The condition that a file's sender may still send, and no worker is completing it.

    A worker that completes an upload ends its multipart upload itself, and knows the result.
    """
    is_open = or_(
        and_(Transfer.state == State.INIT, leases.is_free()),
        exists().where(Batch.transfer_id == Transfer.id, Batch.closed_at.is_(None)),
    )
    its_own = (File.upload_id == Upload.id, File.transfer_id == Transfer.id)
    return and_(Upload.etag.is_(None), exists().where(*its_own, is_open))


def lifetime() -> timedelta:
    """How long a presigned URL of a part works."""
    return timedelta(seconds=settings.part_url_ttl_in_seconds)


def is_noted() -> ColumnElement[bool]:
    """The condition that a URL signed now expires before the upload's `urls_until`.

    Bind `lifetime` to lifetime(). An upload that is being removed right now may count as noted,
    too: what arrives by the URL is removed once that has expired.
    """
    return Upload.urls_until >= db_now() + bindparam("lifetime", type_=Interval())


def note_signing(upload_ids: Iterable[uuid.UUID]) -> None:
    """Record, before any URL leaves, until when bytes may arrive. Call in transaction().

    Raises WrongState if one of them was removed meanwhile: nothing may arrive for it any more.
    """
    ids = set(upload_ids)
    noted = changed(
        update(Upload)
        .where(Upload.id.in_(ids), Upload.state == UploadState.OPEN)
        .values(urls_until=db_now() + lifetime() + NOTED_FOR)
        .execution_options(synchronize_session=False)
    )
    if noted != len(ids):
        raise WrongState("This file has arrived already, or was removed.")


def note_sent(upload_ids: Sequence[uuid.UUID]) -> bool:
    """Record that the sender says these were sent whole; returns whether any is still open.

    Call in transaction().
    """
    if not upload_ids:
        return False
    noted = changed(
        update(Upload)
        .where(Upload.id.in_(upload_ids), Upload.state == UploadState.OPEN)
        .values(sent_at=db_now())
        .execution_options(synchronize_session=False)
    )
    return noted > 0


def sign(
    upload: Plan, numbers: Sequence[int], crc32s: Sequence[bytes] | None = None
) -> list[SignedPart]:
    """Presigned URLs for these parts of a begun upload, without using the network.

    With `crc32s`, one for each part, storage refuses any other bytes at that URL.
    """
    ttl = settings.part_url_ttl_in_seconds
    if upload.method is Method.SINGLE:
        crc32 = crc32s[0] if crc32s else None
        url, headers = storage.urls.put(upload.key, upload.token, upload.size, ttl, crc32)
        return [SignedPart(1, upload.size, url, headers)]
    sizes = [(number, part_size_of(upload, number)) for number in numbers]
    signed = storage.urls.parts(*address_of(upload), sizes, ttl, crc32s)
    return [
        SignedPart(number, size, url, headers)
        for (number, size), (url, headers) in zip(sizes, signed, strict=True)
    ]


def sign_plain(upload: Begun, numbers: Sequence[int]) -> list[str]:
    """URLs for these parts of a begun multipart upload, to which any client can PUT.

    Only the host is signed, so storage accepts any length: arrivals() checks what came.
    """
    return storage.urls.plain_parts(*address_of(upload), numbers, settings.part_url_ttl_in_seconds)


def put_nothing(uploads: Sequence[Upload]) -> None:
    """Send the one empty part of these empty files ourselves: some clients send nothing for them.

    Repeatable, also while another completes it. Raises WrongState for one that was removed.
    """
    if not uploads:
        return
    begin(uploads)
    release()
    each(uploads, _put_nothing)


def _put_nothing(upload: Upload) -> None:
    try:
        storage.put_part(*address_of(upload), 1, memoryview(b""))
    except NoSuchUpload as error:
        # The same request, sent twice: the other one's part may have been completed already.
        if not is_ours(upload, stored_of(upload)):
            raise WrongState("This file was removed.") from error


def copy_from(upload: Upload, source: Source) -> None:
    """Fill a multipart upload with the bytes of another object, inside storage. Repeatable.

    Raises SourceLost if that object is gone or another by now, NotOffered if storage cannot copy,
    and WrongState as begin().
    """
    if upload.size == 0:
        put_nothing([upload])
        return
    begin([upload])
    release()

    def copy_one(number: int) -> None:
        start, size = (number - 1) * upload.part_size, part_size_of(upload, number)
        storage.copy_part(*address_of(upload), number, source, start, size)

    each(numbers_of(upload), copy_one)
    # Some stores copy whatever is there, although each copy names the ETag: Ceph does.
    copied = storage.head(source.key)
    if copied is None or copied.etag != source.etag:
        raise SourceLost(source.key)


def arrivals(uploads: Sequence[Upload]) -> list[Arrival]:
    """What has arrived of each upload, according to storage. Asks storage.

    Nothing of a multipart upload that storage has dropped: another is begun when more of it is
    sent.
    """
    release()
    lost: list[Upload] = []
    found = each(uploads, lambda upload: _arrival(upload, lost))
    _forget_lost(lost)
    return found


def _arrival(upload: Upload, lost: list[Upload]) -> Arrival:
    if upload.state is UploadState.COMPLETE:
        return Arrival((), upload.size)
    if upload.method is Method.SINGLE or upload.s3_upload_id is None:
        missing = set(numbers_of(upload)) - set(_held_by(upload, lost))
        return Arrival(tuple(sorted(missing)), 0 if missing else upload.size)
    try:
        parts = storage.list_parts(*address_of(upload))
    except NoSuchUpload:
        if is_ours(upload, stored_of(upload)):
            return Arrival((), upload.size)
        lost.append(upload)
        return Arrival(numbers_of(upload), 0)
    size = sum(part.size for part in parts)
    missing = set(numbers_of(upload)) - {part.number for part in parts}
    if not missing and size == upload.size:
        # The total is right, but single parts may not be: those must be sent again.
        missing = set(numbers_of(upload)) - {part.number for part in _right_parts(upload, parts)}
    return Arrival(tuple(sorted(missing)), size)


def held_parts(upload: Upload, sizes: Sequence[int] | None = None) -> list[Part]:
    """The parts of a begun multipart upload that storage holds in full. Asks storage.

    `sizes` are the parts' sizes, where they are not equal. Raises NoSuchUpload if the upload was
    completed or aborted.
    """
    return _right_parts(upload, storage.list_parts(*address_of(upload)), sizes)


def held(uploads: Sequence[Upload]) -> list[list[int]]:
    """For each upload the part numbers that storage holds in full, in order. Asks storage.

    None of one that storage has dropped, as in arrivals().
    """
    release()
    lost: list[Upload] = []
    found = each(uploads, lambda upload: _held_by(upload, lost))
    _forget_lost(lost)
    return found


def _held_by(upload: Upload, lost: list[Upload]) -> list[int]:
    if upload.state is UploadState.COMPLETE:
        return list(range(1, part_count(upload) + 1))
    if upload.method is Method.SINGLE:
        return [1] if is_ours(upload, stored_of(upload)) else []
    if upload.s3_upload_id is None:
        return []
    try:
        return [part.number for part in held_parts(upload)]
    except NoSuchUpload:
        if is_ours(upload, stored_of(upload)):
            return list(range(1, part_count(upload) + 1))
        lost.append(upload)
        return []


def stored_of(upload: Upload) -> Stored | None:
    """The object at the upload's key, with its checksum if the plan has them. Asks storage."""
    return storage.head(upload.key, with_crc32=is_verified(upload))


def is_verified(upload: Upload) -> bool:
    """Whether storage verifies each part by its checksum, as the plan says."""
    return upload.checksum_algorithm is not None


def _right_parts(
    upload: Upload, parts: Sequence[Part], sizes: Sequence[int] | None = None
) -> list[Part]:
    """The parts of planned number and size that are verified; others must be sent again.

    SeaweedFS verifies parts on arrival and lists none of their checksums. A store that lists them
    must list all.
    """
    last = part_count(upload) if sizes is None else len(sizes)
    must_have_crc32 = is_verified(upload) and any(part.crc32 for part in parts)
    return [
        part
        for part in parts
        if 1 <= part.number <= last
        and part.size == (sizes[part.number - 1] if sizes else part_size_of(upload, part.number))
        and (part.crc32 is not None or not must_have_crc32)
    ]


def is_ours(upload: Upload, stored: Stored | None) -> bool:
    """Whether the object at the upload's key is the one that was to be sent, by token and size."""
    return stored is not None and (stored.token, stored.size) == (upload.token, upload.size)


def numbers_of(upload: Upload) -> tuple[int, ...]:
    """The numbers of all parts that the plan has, from 1."""
    return tuple(range(1, part_count(upload) + 1))


def address_of(upload: Begun) -> tuple[str, str]:
    """The key and the multipart upload's id, by which storage knows it."""
    return upload.key, upload.s3_upload_id or ""
