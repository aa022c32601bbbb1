"""What is left of a deleted transfer: nothing that anybody wrote, and one day nothing at all."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from app import clock
from app.db import db, transaction
from app.extensions import storage
from app.models import (
    AbuseReport,
    Archive,
    AuditEvent,
    Board,
    Download,
    ExtensionRequest,
    File,
    Harm,
    State,
    Transfer,
    Upload,
)
from app.services import (
    abuse,
    archives,
    boards,
    checking,
    downloads,
    news,
    tombstones,
    transfers,
    upkeep,
)
from tests.factories import Machine, Sender, Sent

pytestmark = pytest.mark.usefixtures("inside")
WORDS = {"title": "Secret wedding", "message": "For nobody else"}
CONTENTS = {"private/names.txt": b"1", "private/more.txt": b"22"}


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def deleted(sender: Sender, **options: Any) -> Sent:
    """A transfer with everything that can belong to one, deleted by its sender."""
    sent = sender.ready(CONTENTS, **WORDS, **options).zip()
    proof = downloads.unlock(sent.slug, options["password"]) if options else None
    downloads.file_url(sent.slug, sent.files[0]["id"], "a visitor", proof)
    sent.set(address_hash=b"a" * 32)
    transfers.delete(sent.id)
    return sent


def age(sent: Sent, *, days: float) -> None:
    """Let so many days pass over its tombstone, and its bytes go meanwhile."""
    of_it = Upload.id.in_(transfers.uploads_of([sent.id]))
    with transaction():
        long_dead = {"urls_until": ago(hours=1), "remove_after": ago(seconds=1)}
        db.session.execute(update(Upload).where(of_it).values(**long_dead))
    upkeep.remove_bytes()
    with transaction():
        is_settled = Upload.removed_at.is_not(None)
        db.session.execute(
            update(Upload).where(of_it, is_settled).values(removed_at=ago(days=days))
        )
        db.session.execute(
            update(Transfer).where(Transfer.id == sent.id).values(deleted_at=ago(days=days))
        )


def age_report(number: int, *, days: float) -> None:
    with transaction():
        made = {"created_at": ago(days=days)}
        db.session.execute(update(AbuseReport).where(AbuseReport.id == number).values(**made))


def count(table: Any) -> int:
    return db.session.scalar(select(func.count()).select_from(table)) or 0


def everything() -> str:
    """Every row of every table but the audit's, as PostgreSQL prints it."""
    tables = db.session.scalars(
        text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    ).all()
    rows = [db.session.scalars(text(f"SELECT t::text FROM {one} t")).all() for one in tables]
    return "\n".join(str(row) for one in rows for row in one)


def test_what_people_wrote_is_forgotten_and_figures_stay(sender: Sender) -> None:
    live, sent = sender.ready(CONTENTS, **WORDS), deleted(sender, password="open sesame")
    kept = (live.row().title, [file.path for file in transfers.files_of(live.id)])
    visitor = db.session.scalar(select(Download.visitor_hash))
    assert visitor is not None
    assert "Secret wedding" in everything()
    assert tombstones.forget_deleted() == 1
    assert (live.row().title, [file.path for file in transfers.files_of(live.id)]) == kept
    live.set(title="", message="")
    for file in transfers.files_of(live.id):
        file.path = f"p{file.position}"
    db.session.commit()
    left = everything()
    for word in ("Secret", "nobody else", "private", "names.txt", "argon2id", "61" * 32):
        assert word not in left, word
    assert visitor.hex() not in left
    row = sent.row()
    assert (row.state, row.download_count, row.slug) == (State.DELETED, 1, sent.slug)
    assert [file.size for file in transfers.files_of(sent.id)] == [1, 2]
    assert sender.client.get(f"/d/{sent.slug}").status_code == 410
    assert sent.call("GET").status_code == 410
    assert tombstones.forget_deleted() == 0


def test_who_is_alive_is_not_forgotten(sender: Sender) -> None:
    alive = [
        sender.create(CONTENTS, **WORDS),
        sender.ready(CONTENTS, **WORDS),
        sender.ready(CONTENTS, **WORDS).set(expires_at=ago(seconds=1)),
    ]
    upkeep.expire_due()
    assert (tombstones.forget_deleted(), tombstones.drop_tombstones()) == (0, 0)
    assert [one.row().title for one in alive] == [WORDS["title"]] * 3


def test_what_is_reported_or_quarantined_is_kept_for_the_operator(sender: Sender) -> None:
    sent = sender.ready(CONTENTS, **WORDS)
    number = abuse.report(sent.slug, Harm.MALWARE, "look at it")
    abuse.quarantine(sent.id)
    transfers.delete(sent.id)
    age(sent, days=400)
    for finish in (lambda: abuse.close(number), lambda: abuse.lift_quarantine(sent.id)):
        assert tombstones.forget_deleted() == 0
        assert sent.row().title == WORDS["title"]
        if abuse.open_count(sent.id):
            assert tombstones.drop_tombstones() == 0
        finish()
    assert tombstones.forget_deleted() == 1
    # Closed, it is still kept, and so is the row that it is about.
    assert tombstones.drop_tombstones() == 0
    age_report(number, days=90.1)
    assert tombstones.drop_tombstones() == 1
    assert count(AbuseReport) == 0


def test_a_report_of_a_board_keeps_what_is_known_of_its_files(machine: Machine) -> None:
    board = machine.board()
    added = [{"name": "evil.exe", "size": 1}]
    machine.call("POST", f"/boards/{board['id']}/files", json=added)
    (file,) = (item.file for item in boards.items_of(uuid.UUID(board["id"])) if item.file)
    number = abuse.report(board["url"].rpartition("/")[2], Harm.MALWARE, of=Board)
    with transaction():
        db.session.execute(update(Transfer).values(address_hash=b"a" * 32))
    transfers.delete(file.transfer_id)
    assert tombstones.forget_deleted() == 0
    abuse.close(number)
    assert tombstones.forget_deleted() == 1
    assert transfers.of_id(file.transfer_id).address_hash == b"a" * 32
    age_report(number, days=90.1)
    tombstones.drop_tombstones()
    assert transfers.of_id(file.transfer_id).address_hash is None


def test_s31_who_sent_what_was_reported_is_known_as_long_as_the_report(sender: Sender) -> None:
    sent, alive = sender.ready(CONTENTS, **WORDS), sender.ready(CONTENTS, **WORDS)
    sent.set(address_hash=b"a" * 32, sender_email="eve@example.org")
    numbers = [abuse.report(one.slug, Harm.MALWARE) for one in (sent, sent, alive)]
    transfers.delete(sent.id)
    age(sent, days=89)
    for number in numbers:
        abuse.close(number)
    # What was written is forgotten, as of any other; not where it came from, nor when.
    assert tombstones.forget_deleted() == 1
    assert (sent.row().title, sent.row().address_hash) == ("", b"a" * 32)
    age_report(numbers[0], days=90.1)
    age_report(numbers[1], days=89.9)
    tombstones.drop_tombstones()
    news.queue_news()
    assert (sent.row().address_hash, sent.row().sender_email) == (b"a" * 32, "eve@example.org")
    assert count(AbuseReport) == 2
    age_report(numbers[1], days=90.1)
    age_report(numbers[2], days=90.1)
    tombstones.drop_tombstones()
    news.queue_news()
    assert (sent.row().address_hash, sent.row().sender_email) == (None, None)
    assert count(AbuseReport) == 0
    # Of what is alive nothing is forgotten for that.
    assert alive.row().title == WORDS["title"]


def test_s31_who_sent_what_was_blocked_is_known_as_long(sender: Sender, configure) -> None:
    sent = sender.ready(CONTENTS, **WORDS).set(address_hash=b"a" * 32)
    abuse.quarantine(sent.id)
    transfers.delete(sent.id)
    configure(tombstones_in_days=1, report_retention_in_days=30)
    age(sent, days=29)
    assert (tombstones.forget_deleted(), tombstones.drop_tombstones()) == (0, 0)
    sent.set(quarantined_at=ago(days=30.1))
    assert tombstones.forget_deleted() == 1
    assert (sent.row().title, sent.row().address_hash) == ("", None)
    assert tombstones.drop_tombstones() == 1


def test_an_open_report_is_never_dropped(sender: Sender) -> None:
    sent = sender.ready(CONTENTS)
    age_report(abuse.report(sent.slug, Harm.OTHER), days=1000)
    tombstones.drop_tombstones()
    assert count(AbuseReport) == 1


def test_a_quarantine_outlives_no_tombstone(sender: Sender) -> None:
    sent = sender.ready(CONTENTS, **WORDS)
    abuse.quarantine(sent.id)
    transfers.delete(sent.id)
    sent.set(quarantined_at=ago(days=91))
    age(sent, days=91)
    assert tombstones.drop_tombstones() == 1


def test_an_old_tombstone_goes_with_all_that_belongs_to_it(sender: Sender) -> None:
    live, sent = sender.ready(CONTENTS), deleted(sender)
    with transaction():
        db.session.add(
            ExtensionRequest(
                transfer_id=sent.id, reason="expired", asker_hash=b"a" * 32, day=clock.now().date()
            )
        )
    age(sent, days=89.9)
    assert tombstones.drop_tombstones() == 0
    assert sender.client.get(f"/d/{sent.slug}").status_code == 410
    age(sent, days=90.1)
    assert tombstones.drop_tombstones() == 1
    assert sender.client.get(f"/d/{sent.slug}").status_code == 404
    assert sender.client.get(f"/d/{sent.slug}.json").status_code == 404
    assert sent.call("GET").status_code == 404
    found = {one: count(one) for one in (Transfer, File, Upload, Archive, Download)}
    assert found == {Transfer: 1, File: 2, Upload: 2, Archive: 0, Download: 0}
    assert live.show()["status"] == "READY"
    actions = db.session.scalars(
        select(AuditEvent.action).where(AuditEvent.transfer_id == sent.id).order_by(AuditEvent.id)
    ).all()
    assert (actions[0], actions[-1]) == ("create", "drop")


def test_no_tombstone_goes_while_bytes_may_be_there(sender: Sender, monkeypatch) -> None:
    sent = deleted(sender)
    key = transfers.files_of(sent.id)[0].upload.key
    monkeypatch.setattr(storage, "delete", lambda keys: list(keys))
    age(sent, days=1000)
    assert tombstones.drop_tombstones() == 0
    assert storage.head(key) is not None
    monkeypatch.undo()
    age(sent, days=1000)
    assert tombstones.drop_tombstones() == 1
    assert storage.head(key) is None


def test_the_zip_alone_keeps_it_too(sender: Sender) -> None:
    sent = deleted(sender)
    age(sent, days=91)
    with transaction():
        zips = select(Archive.upload_id)
        db.session.execute(update(Upload).where(Upload.id.in_(zips)).values(removed_at=None))
    assert tombstones.drop_tombstones() == 0


def test_rows_of_files_that_were_taken_out_go_too(sender: Sender) -> None:
    """And of whatever else was given up: nobody has such an upload any more."""
    sent = sender.create(CONTENTS).upload()
    sent.call("DELETE", f"/files/{sent.files[0]['id']}")
    with transaction():
        aborted = Upload.__table__.c.state == "ABORTED"
        db.session.execute(update(Upload).where(aborted).values(urls_until=ago(hours=1)))
    upkeep.remove_bytes()
    tombstones.drop_tombstones()
    assert count(Upload) == 2
    with transaction():
        db.session.execute(update(Upload).where(aborted).values(removed_at=ago(days=91)))
    tombstones.drop_tombstones()
    assert count(Upload) == 1
    assert sent.complete().process().show()["status"] == "READY"


def test_jobs_that_come_too_late_find_nothing(sender: Sender) -> None:
    sent = deleted(sender)
    age(sent, days=91)
    tombstones.drop_tombstones()
    checking.process(str(sent.id))
    archives.build(str(sent.id))
    assert transfers.delete(sent.id) is False


def test_how_long_they_stand_is_a_setting(sender: Sender, configure) -> None:
    sent = deleted(sender)
    age(sent, days=2)
    configure(tombstones_in_days=3)
    assert tombstones.drop_tombstones() == 0
    configure(tombstones_in_days=1)
    assert tombstones.drop_tombstones() == 1


@pytest.mark.real_commits
def test_many_go_in_batches(sender: Sender, monkeypatch) -> None:
    monkeypatch.setattr(tombstones, "DELETE_BATCH", 2)
    monkeypatch.setattr(tombstones, "BATCH", 3)
    sent = [sender.ready() for _ in range(5)]
    for one in sent:
        transfers.delete(one.id)
        age(one, days=91)
    told: list[int] = []
    assert tombstones.forget_deleted(lambda what, done: told.append(done)) == 5
    assert told == [2, 4, 5]
    assert tombstones.drop_tombstones() == 5
    assert (count(Transfer), count(Upload)) == (0, 0)
