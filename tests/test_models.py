"""The database's constraints refuse illegal rows."""

from typing import Any

import pytest
from sqlalchemy.exc import DataError, IntegrityError

from app.clock import now
from app.db import db, transaction
from app.models import (
    AbuseReport,
    Ending,
    ExtensionRequest,
    File,
    Harm,
    Method,
    State,
    Transfer,
    Upload,
    UploadState,
)

pytestmark = pytest.mark.usefixtures("inside")
MIB = 2**20


def transfer(**values: Any) -> Transfer:
    return Transfer(**({"slug": "s", "owner_token_hash": b"x" * 32, "expires_at": now()} | values))


def upload(**values: Any) -> Upload:
    given = {
        "key": "k",
        "token": "t",
        "method": Method.MULTIPART,
        "size": 9 * MIB,
        "part_size": 8 * MIB,
    }
    return Upload(**(given | values))


@pytest.mark.parametrize(
    "row",
    [
        transfer(download_count=-1),
        transfer(max_downloads=0),
        transfer(max_downloads=2, download_count=3),
        transfer(sent_size=-1),
        transfer(attempt_count=-1),
        transfer(owner_token_hash=b"short"),
        transfer(state=State.READY),
        transfer(state=State.DELETED),
        transfer(slug=None),
        transfer(expires_at=None),
        upload(size=-1),
        upload(size=10_000 * 5 * 2**30 + 1, part_size=5 * 2**30),
        upload(part_size=0),
        upload(part_size=5 * MIB - 1),
        upload(part_size=5 * 2**30 + 1),
        upload(size=10_001 * 5 * MIB, part_size=5 * MIB),
        upload(method=Method.SINGLE),
        upload(method=Method.SINGLE, size=1, s3_upload_id="u"),
        upload(state=UploadState.COMPLETE),
        upload(removed_at=now()),
        ExtensionRequest(reason=Ending.EXPIRED, asker_hash=b"short", day=now().date()),
        AbuseReport(reason=Harm.OTHER),
    ],
    ids=lambda row: type(row).__name__,
)
def test_illegal_rows_are_refused(row: Any) -> None:
    with pytest.raises((IntegrityError, DataError)), transaction():
        db.session.add(row)


def test_a_path_is_unique_in_a_transfer_and_an_upload_has_one_file() -> None:
    one, shared = transfer(), upload()
    with transaction():
        db.session.add_all([one, shared])
        db.session.flush()
        db.session.add(File(transfer_id=one.id, upload_id=shared.id, position=0, path="a"))
    for path, key in (("a", "other"), ("b", None)):
        with pytest.raises(IntegrityError), transaction():  # noqa: PT012
            mine = upload(key=key) if key else shared
            db.session.add(mine)
            db.session.flush()
            db.session.add(File(transfer_id=one.id, upload_id=mine.id, position=1, path=path))


def test_files_and_downloads_go_with_their_transfer_and_uploads_stay_for_the_upkeep() -> None:
    one, its = transfer(), upload()
    with transaction():
        db.session.add_all([one, its])
        db.session.flush()
        db.session.add(File(transfer_id=one.id, upload_id=its.id, position=0, path="a"))
    with transaction():
        db.session.delete(one)
    assert db.session.query(File).count() == 0
    assert db.session.query(Upload).count() == 1
