"""The block list: what is on it is stopped before anybody has it, and nothing else is kept long."""

import hashlib
import uuid
import zlib
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, func, select, text, update

from app import clock, jobs, leases
from app.config import MIB
from app.db import db, transaction
from app.errors import Gone, NotFound, Outage, WrongState
from app.extensions import storage
from app.gateways.s3_answers import Source
from app.models import AbuseReport, AuditEvent, Batch, Harm, Inspection, State, Upload, UploadState
from app.services import (
    abuse,
    batches,
    blocklist,
    blocklist_scan,
    checking,
    downloads,
    transfer_view,
    transfers,
    upkeep,
)
from tests.factories import Sender, Sent, copy_anew, put
from tests.lab.mailserver import MailServer
from tests.mail import ADA, addressed, send_mail
from tests.services.test_audit import actions

pytestmark = pytest.mark.usefixtures("inside")

EVIL = b"evil" * 7
# More than one part, and more than one read.
LARGE = b"evil" * (2 * MIB + 1)
CONTENTS = {"a.txt": b"hello", "evil.exe": EVIL}


def block(body: bytes = EVIL, *, with_crc32: bool = True, size: int | None = None) -> bytes:
    """Put these bytes on the list; what they are called there."""
    sha256 = hashlib.sha256(body).digest()
    crc32 = zlib.crc32(body).to_bytes(4, "big") if with_crc32 else None
    blocklist.add(sha256, size or len(body), Harm.MALWARE, crc32)
    return sha256


def held() -> list[uuid.UUID]:
    """Whatever is to be read."""
    return list(db.session.scalars(select(Inspection.upload_id)))


def read_all() -> None:
    """Do what the maker would do."""
    for upload_id in held():
        blocklist_scan.inspect(str(upload_id))


def states(sent: Sent) -> list[str]:
    return [file["state"] for file in sent.show()["files"]]


def asked_of_storage(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    read = storage._get
    monkeypatch.setattr(
        storage, "_get", lambda url, *given: (asked.append(url), read(url, *given))[1]
    )
    return asked


@pytest.mark.parametrize("verified", [True, False])
def test_s31_a_blocked_file_is_stopped_before_anybody_has_it(
    app: Flask, sender: Sender, mail: MailServer, configure, queued: list, verified: bool
) -> None:
    configure(abuse_contact="operator@example.org")
    sha256 = block()
    sent = sender.create(CONTENTS, verified=verified, title="Rushes").upload().complete()
    addressed(sent, "bo@example.org")
    sent.process()
    # READY waits for the comparison, and so does whoever has the link.
    assert (sent.show()["status"], states(sent)) == ("PROCESSING", ["COMPLETE", "OPEN"])
    assert ("blocklist_scan.inspect", str(held()[0])) in queued
    with pytest.raises(WrongState):
        downloads.file_url(sent.slug, uuid.UUID(sent.files[1]["id"]), None)
    queued.clear()
    read_all()
    assert ("checking.process", str(sent.id)) in queued
    shown = sent.process().show()
    assert (shown["status"], shown["is_blocked"]) == ("READY", True)
    assert transfer_view.view(sent.slug).state == "unavailable"
    assert actions(sent.id)[-2:] == ["blocked file", "quarantine"]
    ((report, _),) = abuse.reports()
    assert (report.reason, report.file_sha256) == (Harm.MALWARE, sha256)
    send_mail(app)
    (letter,) = mail.to("operator@example.org")
    for body in (letter.body("plain"), letter.body("html")):
        assert "A blocked file was sent: malware" in body
        assert "evil.exe" in body.replace("\u200b", "")
        assert f"flask transfers release http://localhost/d/{sent.slug}" in body
    # It is mailed to nobody else, neither as files for them nor as sent.
    assert mail.to("bo@example.org") == mail.to(ADA) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"size": len(EVIL) + 1},
        {"body": b"live" + EVIL[4:]},
    ],
    ids=["size", "crc32"],
)
def test_what_cannot_be_on_the_list_is_not_read(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, entry: dict
) -> None:
    asked = asked_of_storage(monkeypatch)
    block(**entry)
    sent = sender.create(CONTENTS, verified=True).upload().complete().process()
    assert sent.show()["status"] == "READY"
    assert (held(), asked) == ([], [])


@pytest.mark.parametrize("with_crc32", [True, False])
def test_what_only_looks_like_it_is_read_once_and_let_through(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, with_crc32: bool
) -> None:
    """Of the same size, and its CRC32 is not known to one of both."""
    asked = asked_of_storage(monkeypatch)
    block(b"live" + EVIL[4:], with_crc32=with_crc32)
    sent = sender.create(CONTENTS, verified=not with_crc32).upload().complete().process()
    assert sent.show()["status"] == "PROCESSING"
    read_all()
    assert len(asked) == 1
    shown = sent.process().show()
    assert (shown["status"], shown["is_blocked"]) == ("READY", False)
    # Read anyway, so its checksum is known from now on.
    assert shown["files"][1]["crc32"] == f"{zlib.crc32(EVIL):08x}"
    assert held() == []


@pytest.mark.parametrize("verified", [True, False])
def test_a_large_file_is_read_in_pieces_and_recognised(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    sizes: list[int] = []
    read_into = storage.read_into

    def reading(place: memoryview, source: Source, start: int) -> None:
        sizes.append(len(place))
        read_into(place, source, start)

    monkeypatch.setattr(storage, "read_into", reading)
    block(LARGE)
    sent = sender.create({"evil.iso": LARGE}, verified=verified).upload().complete().process()
    assert sent.show()["status"] == "PROCESSING"
    read_all()
    assert (sum(sizes), max(sizes)) == (len(LARGE), 4 * MIB)
    assert sent.process().show()["is_blocked"] is True


def test_one_question_more_makes_files_complete(sender: Sender) -> None:
    """However many files, and however long the list: and its answer comes from an index."""
    for number in range(50):
        block(b"%d" % number, size=100 + number)
    sent = sender.create({str(number): b"x" for number in range(20)}).upload().complete()
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, given: Any, *rest: Any) -> None:
        if "blocked_files" in statement:
            asked.append((statement, given))

    event.listen(db.engine, "before_cursor_execute", note)
    sent.process()
    event.remove(db.engine, "before_cursor_execute", note)
    assert sent.show()["status"] == "READY"
    ((statement, given),) = asked
    # A list this short would be read whole.
    db.session.execute(text("SET LOCAL enable_seqscan = off"))
    plan = db.session.connection().exec_driver_sql(f"EXPLAIN {statement}", given)
    assert "ix_blocked_files_size" in str(plan.all())


def test_early_files_obey_too(sender: Sender) -> None:
    block()
    contents = CONTENTS | {"late": b"l"}
    sent = sender.create(contents, verified=True).upload(without=(("late", 1),))
    sent.name("a.txt", "evil.exe").unlock()
    assert states(sent) == ["COMPLETE", "OPEN", "OPEN"]
    # Named again, it is neither given out nor completed again.
    sent.name("evil.exe").unlock()
    assert (states(sent), len(held())) == (["COMPLETE", "OPEN", "OPEN"], 1)
    read_all()
    assert transfer_view.view(sent.slug).state == "unavailable"
    wanted = [{"file": sent.files[2]["id"], "numbers": [1]}]
    answer = sent.call("POST", "/parts", json={"wanted": wanted})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "blocked")


def test_early_files_that_are_not_on_it_unlock_after_the_comparison(sender: Sender) -> None:
    block(b"live" + EVIL[4:])
    sent = sender.create(CONTENTS).upload().name("evil.exe").unlock()
    assert states(sent) == ["OPEN", "OPEN"]
    read_all()
    assert states(sent) == ["OPEN", "COMPLETE"]
    assert sent.complete().process().show()["status"] == "READY"


def test_that_is_all_waits_for_what_was_held_back_early(sender: Sender) -> None:
    block(b"live" + EVIL[4:])
    sent = sender.create(CONTENTS).upload().name("evil.exe").unlock()
    sent.complete().process()
    assert sent.show()["status"] == "PROCESSING"
    read_all()
    assert sent.process().show()["status"] == "READY"


def test_waiting_is_neither_an_attempt_nor_stuck(sender: Sender, queued: list) -> None:
    block(b"live" + EVIL[4:])
    sent = sender.create(CONTENTS).upload().complete()
    for _ in range(checking.MOST_ATTEMPTS + 2):
        sent.process()
    assert sent.row().attempt_count == 0
    sent.set(queued_at=None)
    assert checking.remind_stuck(func.now()) == 0
    # Whoever was to read it was lost with the queue; the sweep asks again.
    db.session.execute(update(Inspection).values(queued_at=None))
    queued.clear()
    upkeep.requeue_stuck()
    assert ("blocklist_scan.inspect", str(held()[0])) in queued
    read_all()
    # And so it does where only the reminder that it was read is lost.
    queued.clear()
    sent.set(queued_at=None)
    upkeep.requeue_stuck()
    assert ("checking.process", str(sent.id)) in queued
    assert sent.process().show()["status"] == "READY"


def test_a_batch_that_waits_is_not_stuck_either(sender: Sender, queued: list) -> None:
    block(b"live" + EVIL[4:])
    sent = sender.ready()
    made = sent.call("POST", "/files", json={"files": [{"path": "b", "size": len(EVIL)}]}).json
    more = Sent(sent.client, sent.json | {"files": made["files"]}, {"b": EVIL})
    more.upload().complete()
    batches.process(str(sent.id))
    assert batches.remind_stuck(func.now()) == 0
    # Where the reminder that it was read is lost.
    blocklist_scan.inspect(str(held()[0]))
    db.session.execute(update(Batch).values(queued_at=None))
    assert batches.remind_stuck(func.now()) == 1
    batches.process(str(sent.id))
    assert sent.show()["batch"] is None


def test_a_check_that_died_among_its_files_is_stuck_all_the_same(sender: Sender) -> None:
    block(b"live" + EVIL[4:])
    sent = sender.create(CONTENTS | {"late": b"l"}).upload()
    sent.name("evil.exe").unlock().complete()
    sent.set(queued_at=None)
    assert checking.remind_stuck(func.now()) == 1


def test_what_is_removed_while_it_is_held_back_keeps_nobody(sender: Sender, queued: list) -> None:
    block()
    sent = sender.create(CONTENTS).upload().name("evil.exe").unlock()
    assert sent.call("DELETE", f"/files/{sent.files[1]['id']}").status_code == 204
    read_all()
    assert (sent.row().quarantined_at, sent.row().state) == (None, State.INIT)
    sent.complete()
    sent.set(queued_at=None)
    assert checking.remind_stuck(func.now()) == 1
    assert sent.process().show()["status"] == "READY"


def test_a_transfer_that_is_deleted_meanwhile_is_read_no_further(sender: Sender) -> None:
    block()
    sent = sender.create(CONTENTS).upload().complete().process()
    transfers.delete(sent.id)
    read_all()
    assert abuse.reports() == []
    assert sent.row().state is State.DELETED


def test_a_late_reader_changes_nothing(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease lapsed, and another has finished: no second report, no second step."""
    block()
    sent = sender.create(CONTENTS).upload().complete().process()
    (upload_id,) = held()
    read = blocklist_scan._read

    def slow(lease: leases.Lease, upload: Upload) -> blocklist_scan._Sums:
        sums = read(lease, upload)
        monkeypatch.setattr(blocklist_scan, "_read", read)
        past = clock.now() - timedelta(seconds=1)
        with transaction():
            db.session.execute(update(Inspection).values(lease_until=past))
        blocklist_scan.inspect(str(upload_id))
        return sums

    monkeypatch.setattr(blocklist_scan, "_read", slow)
    blocklist_scan.inspect(str(upload_id))
    assert len(abuse.reports()) == 1
    assert actions(sent.id).count("blocked file") == 1


def test_stopping_hands_it_over(sender: Sender, queued: list) -> None:
    block()
    sent = sender.create(CONTENTS).upload().complete().process()
    (upload_id,) = held()
    queued.clear()
    jobs.stopping.set()
    blocklist_scan.inspect(str(upload_id))
    jobs.stopping.clear()
    assert ("blocklist_scan.inspect", str(upload_id)) in queued
    assert (held(), sent.row().quarantined_at) == ([upload_id], None)
    assert db.session.scalar(select(Inspection.attempt_count)) == 0


def test_an_outage_of_storage_is_no_attempt(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    block()
    sender.create(CONTENTS).upload().complete().process()
    (upload_id,) = held()

    def away(*given: object) -> None:
        raise Outage

    monkeypatch.setattr(storage, "read_into", away)
    with pytest.raises(Outage):
        blocklist_scan.inspect(str(upload_id))
    assert db.session.scalar(select(Inspection.attempt_count)) == 0
    assert held() == [upload_id]


def test_what_cannot_be_read_is_never_given_out_unread(sender: Sender) -> None:
    block()
    sent = sender.create(CONTENTS).upload().complete().process()
    db.session.execute(update(Inspection).values(attempt_count=blocklist_scan.MOST_ATTEMPTS))
    read_all()
    shown = sent.show()
    assert (shown["status"], states(sent)) == ("INIT", ["COMPLETE", "OPEN"])
    assert shown["problem"]["code"] == "internal"
    # Its sender says "that is all" again, and it is read again.
    sent.complete().process()
    assert sent.show()["status"] == "PROCESSING"
    read_all()
    assert sent.process().show()["is_blocked"] is True


def test_what_storage_has_lost_is_named_and_sent_again(sender: Sender) -> None:
    block()
    sent = sender.create(CONTENTS, verified=True).upload().complete().process()
    (upload_id,) = held()
    storage.delete([db.session.scalars(select(Upload.key).where(Upload.id == upload_id)).one()])
    read_all()
    shown = sent.process().show()
    assert shown["status"] == "INIT"
    assert shown["files"][1]["problem"]["code"] in ("lost", "missing")
    for part in sent.sign(shown["files"][1]):
        put(part["url"], sent.piece(shown["files"][1], part["number"]), part["headers"])
    sent.complete().process()
    read_all()
    assert sent.process().show()["is_blocked"] is True


def test_a_quarantined_transfer_is_not_reported_again(sender: Sender) -> None:
    block()
    sent = sender.create(CONTENTS).upload().complete().process()
    abuse.quarantine(sent.id)
    read_all()
    assert abuse.reports() == []
    assert sent.process().show()["status"] == "READY"
    # The operator's word stands: what is released works.
    abuse.lift_quarantine(sent.id)
    assert transfer_view.view(sent.slug).state == "ready"


# -- putting files on the list -----------------------------------------------------------------


def test_the_files_of_a_quarantined_transfer_are_put_on_the_list(
    sender: Sender, queued: list
) -> None:
    sent = sender.ready({"evil.exe": EVIL, "empty": b"", "logo.png": b"logo"})
    with pytest.raises(WrongState):
        blocklist.block_files(sent.id, Harm.PHISHING)
    abuse.quarantine(sent.id)
    with pytest.raises(NotFound):
        blocklist.block_files(sent.id, Harm.PHISHING, ["evil.exe", "nothing"])
    assert blocklist.block_files(sent.id, Harm.PHISHING, ["evil.exe"]) == 1
    assert ("blocklist_scan.inspect", str(held()[0])) in queued
    assert blocklist.reading(sent.id) == blocklist.Reading(1, len(EVIL), 0)
    read_all()
    assert blocklist.reading(sent.id) == blocklist.Reading(0, 0, 0)
    (entry,) = blocklist.entries()
    assert (entry.sha256, entry.size) == (hashlib.sha256(EVIL).digest(), len(EVIL))
    assert (entry.crc32, entry.reason) == (zlib.crc32(EVIL).to_bytes(4, "big"), Harm.PHISHING)
    assert actions(sent.id)[-1] == "block files"
    # All of them: none twice, and nothing at all is not a file that anybody could be kept from.
    assert blocklist.block_files(sent.id, Harm.OTHER) == 2
    read_all()
    assert [one.reason for one in blocklist.entries()] == [Harm.PHISHING, Harm.OTHER]
    # It is still what it was: held back are only files that others send.
    assert sent.row().state is State.READY
    other = sender.create({"renamed.bin": EVIL}).upload().complete().process()
    assert other.show()["status"] == "PROCESSING"


def test_a_file_to_be_blocked_that_was_copied_anew_is_found_again(
    sender: Sender, queued: list
) -> None:
    """As in a bucket that was moved."""
    sent = sender.ready({"evil.exe": EVIL})
    abuse.quarantine(sent.id)
    blocklist.block_files(sent.id, Harm.OTHER)
    (upload,) = db.session.scalars(select(Upload).where(Upload.id.in_(held())))
    copy_anew(upload, EVIL)
    queued.clear()
    read_all()
    assert [name for name, *_ in queued] == ["blocklist_scan.inspect"]
    db.session.expire_all()
    read_all()
    assert blocklist.reading(sent.id) == blocklist.Reading(0, 0, 0)
    assert len(blocklist.entries()) == 1


def test_a_file_that_is_held_back_and_was_copied_anew_is_read_all_the_same(sender: Sender) -> None:
    block()
    sent = sender.create({"evil.exe": EVIL}).upload().complete().process()
    (upload,) = db.session.scalars(select(Upload).where(Upload.id.in_(held())))
    copy_anew(upload, EVIL)
    read_all()
    db.session.expire_all()
    sent.process()
    read_all()
    assert sent.process().show()["is_blocked"]


def test_a_file_to_be_blocked_that_cannot_be_read_says_so(sender: Sender) -> None:
    sent = sender.ready({"evil.exe": EVIL})
    abuse.quarantine(sent.id)
    blocklist.block_files(sent.id, Harm.OTHER)
    keys = db.session.scalars(select(Upload.key).where(Upload.id.in_(held())))
    storage.delete(list(keys))
    read_all()
    assert blocklist.reading(sent.id) == blocklist.Reading(0, 0, 1)
    assert blocklist.entries() == []
    # Asked for again it is tried again.
    blocklist.block_files(sent.id, Harm.OTHER)
    assert blocklist.reading(sent.id).waiting_count == 1
    transfers.delete(sent.id)
    for ask in (blocklist.reading, lambda one: blocklist.block_files(one, Harm.OTHER)):
        with pytest.raises(Gone):
            ask(sent.id)


def test_the_list_itself_is_repeatable_and_recorded() -> None:
    sha256 = hashlib.sha256(EVIL).digest()
    assert [blocklist.add(sha256, len(EVIL), Harm.OTHER) for _ in range(2)] == [True, False]
    assert [blocklist.remove(sha256) for _ in range(2)] == [True, False]
    noted = db.session.scalars(
        select(AuditEvent.action).order_by(AuditEvent.id.desc()).limit(2)
    ).all()
    assert list(noted) == ["unblock file", "block file"]


def test_upload_state_is_complete_only_after_it(sender: Sender) -> None:
    block(b"live" + EVIL[4:])
    sender.create({"evil.exe": EVIL}).upload().complete().process()
    (upload_id,) = held()
    upload = db.session.get(Upload, upload_id, populate_existing=True)
    assert (upload.state, upload.etag is not None) == (UploadState.OPEN, True)
    assert db.session.scalar(select(func.count()).select_from(AbuseReport)) == 0
