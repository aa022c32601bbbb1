"""More files for what is READY: all of them or none, and nobody misses what was there."""

import hashlib
import io
import uuid
import zipfile
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, select, update

from app import clock, leases
from app.config import MIB, settings
from app.db import db, transaction
from app.errors import KeyReused, NotFound
from app.extensions import storage
from app.models import (
    Batch,
    Failure,
    File,
    IdempotencyKey,
    OutboxMail,
    Problem,
    State,
    Upload,
    UploadState,
)
from app.services import (
    abuse,
    archives,
    batches,
    checking,
    completing,
    contents,
    downloads,
    dry_runs,
    idempotency,
    transfer_view,
    transfers,
    upkeep,
)
from app.services.completing import Outcome
from app.services.contents import FileSpec
from tests.factories import Machine, Sender, Sent, http, put
from tests.lab.mailserver import MailServer
from tests.mail import addressed, pass_time, send_mail
from tests.services.test_audit import actions
from tests.test_races import at_once

OLD = {"a": b"first", "folder/b": b"b" * (8 * MIB + 1)}
NEW = {"c": b"later", "folder/d": b"d" * (8 * MIB + 2), "empty": b""}


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def announced(contents: dict[str, bytes]) -> list[dict[str, Any]]:
    return [{"path": path, "size": len(body)} for path, body in contents.items()]


def added(sent: Sent, contents: dict[str, bytes] | None = None) -> Sent:
    """The batch of these files as its sender knows it, with nothing sent yet."""
    contents = NEW if contents is None else contents
    answer = sent.call("POST", "/files", json={"files": announced(contents)})
    assert answer.status_code == 201, answer.json
    return Sent(sent.client, sent.json | {"files": answer.json["files"]}, contents)


def by_key(machine: Machine, contents: dict[str, bytes]) -> Sent:
    """A READY transfer that a program has made by its key, with weeks to live."""
    until = (clock.now() + timedelta(days=20)).isoformat()
    made = machine.make(files=announced(contents), expires_at=until)
    return Sent(machine.client, made, contents).upload().complete().process()


def check(sent: Sent) -> None:
    """Do what the worker would do."""
    with sent.client.application.app_context():
        batches.process(str(sent.id))


def through(sent: Sent, contents: dict[str, bytes] | None = None, **said: Any) -> Sent:
    """A batch that has gone all the way."""
    batch = added(sent, contents).upload()
    assert batch.call("POST", "/complete", json=said).status_code == 202
    check(sent)
    assert sent.show()["batch"] is None
    return batch


def seen(sent: Sent) -> dict[str, str]:
    """What a recipient sees and gets, each file by the SHA-256 of what storage serves."""
    shown = transfer_view.view(sent.slug)
    assert shown.state == "ready"
    found = {}
    for file in shown.files:
        url = downloads.file_url(sent.slug, file.id, "a visitor")
        found[file.path] = hashlib.sha256(http.request("GET", url).data).hexdigest()
    return found


def sums(*contents: dict[str, bytes]) -> dict[str, str]:
    return {
        path: hashlib.sha256(body).hexdigest() for one in contents for path, body in one.items()
    }


def zipped(sent: Sent) -> dict[str, str]:
    address = downloads.zip_url(sent.slug, "a visitor")
    assert address is not None
    with zipfile.ZipFile(io.BytesIO(http.request("GET", address.url).data)) as made:
        return {name: hashlib.sha256(made.read(name)).hexdigest() for name in made.namelist()}


# -- the way of a batch --------------------------------------------------------------------------


def test_recipients_have_what_was_there_the_whole_time_and_then_all(
    sender: Sender, inside: None, queued: list
) -> None:
    sent = sender.ready(OLD, max_downloads=9).zip()
    queued.clear()
    batch = added(sent)
    assert [file["is_coming"] for file in sent.show()["files"]] == [False] * 2 + [True] * 3
    assert (seen(sent), zipped(sent)) == (sums(OLD), sums(OLD))
    batch.upload().name()
    shown = sent.show()
    assert (shown["status"], shown["batch"]["status"]) == ("READY", "INIT")
    assert shown["total_size"] == sum(map(len, OLD.values()))
    assert queued == []
    for _ in range(2):
        assert batch.call("POST", "/complete").json["batch"]["status"] == "PROCESSING"
    assert queued == [("batches.process", str(sent.id))]
    assert (seen(sent), zipped(sent)) == (sums(OLD), sums(OLD))
    check(sent)
    check(sent)
    shown = sent.show()
    assert (shown["status"], shown["batch"], shown["download_count"]) == ("READY", None, 1)
    assert not any(file["is_coming"] for file in shown["files"])
    assert seen(sent) == sums(OLD, NEW)
    archives.build(str(sent.id))
    assert zipped(sent) == sums(OLD, NEW)
    assert actions(sent.id)[-3:] == ["complete batch", "zip", "add batch"]
    assert batch.call("POST", "/complete").json["status"] == "READY"


def test_one_batch_after_the_other_each_with_a_number(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1"})
    through(sent, {"b": b"2"})
    through(sent, {"c": b"3", "d": b"4"})
    numbers = select(File.path, File.batch).where(File.transfer_id == sent.id)
    assert dict(db.session.execute(numbers.order_by(File.position)).all()) == {
        "a": 0,
        "b": 1,
        "c": 2,
        "d": 2,
    }
    assert downloads.find_file(sent.slug, 4).path == "d"


def test_nothing_of_a_batch_is_told_or_given_before_it_is_there(
    sender: Sender, inside: None
) -> None:
    sent = sender.ready({"a": b"1"})
    batch = added(sent, {"b": b"2"}).upload()
    page = sender.client.get(f"/d/{sent.slug}").text
    told = sender.client.get(f"/d/{sent.slug}.json").json
    assert 'title="b"' not in page
    assert [file["path"] for file in told["files"]] == ["a"]
    with pytest.raises(NotFound):
        downloads.file_url(sent.slug, batch.files[0]["id"], None)
    with pytest.raises(NotFound):
        downloads.find_file(sent.slug, 2)
    with pytest.raises(NotFound):  # of two files there would be one
        downloads.zip_url(sent.slug, None)


def test_the_old_zip_stays_as_long_as_its_addresses(sender: Sender, inside: None) -> None:
    """Whoever is in the middle of it can go on; then its bytes go."""
    sent = sender.ready(OLD).zip()
    old = archives.find_made(sent.id)
    assert old is not None
    address = downloads.zip_url(sent.slug, "ada")
    with transaction():  # it was made long ago
        db.session.execute(update(Upload).values(urls_until=None))
    through(sent)
    upkeep.remove_bytes()
    assert http.request("GET", address.url).status == 200
    later = timedelta(seconds=settings.download_url_ttl_in_seconds)
    with transaction():
        db.session.execute(update(Upload).values(remove_after=Upload.remove_after - later))
    upkeep.remove_bytes()
    assert storage.head(old.key) is None
    assert archives.progress(sent.id).state == "building"


def test_the_old_zip_stays_as_long_as_an_address_that_a_program_has_given_away(
    machine: Machine, inside: None
) -> None:
    sent = by_key(machine, OLD).zip()
    old = archives.find_made(sent.id)
    assert old is not None
    at = f"/{sent.id}/download-url?expiry_minutes="
    asked = [machine.native("GET", f"{at}{minutes}") for minutes in (10_080, 60)]
    through(sent)
    days = timedelta(days=7) - timedelta(minutes=1)
    with transaction():
        db.session.execute(update(Upload).values(remove_after=Upload.remove_after - days))
    upkeep.remove_bytes()
    assert http.request("GET", asked[0].json["download_url"]).status == 200
    with transaction():
        minute = timedelta(minutes=1)
        db.session.execute(update(Upload).values(remove_after=Upload.remove_after - minute))
    upkeep.remove_bytes()
    assert storage.head(old.key) is None


@pytest.mark.parametrize("end", ["deleted", "expired"])
def test_an_old_zip_that_is_kept_goes_with_its_transfer(
    machine: Machine, inside: None, end: str
) -> None:
    """Its address would give out all of it for a week after the link is dead."""
    sent = by_key(machine, OLD).zip()
    asked = machine.native("GET", f"/{sent.id}/download-url?expiry_minutes=10080")
    for more in ({"c": b""}, {"d": b""}):
        through(sent, more)
        sent.zip()
    upkeep.remove_bytes()
    assert http.request("GET", asked.json["download_url"]).status == 200
    if end == "deleted":
        sent.call("DELETE")
    else:
        sent.set(state=State.EXPIRED, expired_at=ago(days=4))
        (removal,) = (one for one in dry_runs.SWEEPS if one.run is upkeep.remove_bytes)
        assert removal.look(upkeep.untold).count == db.session.query(Upload).count()
        upkeep.delete_expired()
    upkeep.remove_bytes()
    assert http.request("GET", asked.json["download_url"]).status == 404
    assert [one.key for one in db.session.query(Upload) if storage.head(one.key)] == []


def test_a_zip_that_is_being_made_meanwhile_is_not_the_new_one(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = sender.ready(OLD)
    batch = added(sent).upload().complete()
    archives.request(sent.id)
    make_parts = archives._make_parts

    def make(*given: Any) -> None:
        monkeypatch.undo()
        make_parts(*given)
        check(batch)

    monkeypatch.setattr(archives, "_make_parts", make)
    archives.build(str(sent.id))
    assert archives.find_made(sent.id) is None
    archives.build(str(sent.id))
    assert zipped(sent) == sums(OLD, NEW)


# -- what may come -------------------------------------------------------------------------------


def test_limits_hold_for_all_of_it_together(sender: Sender, inside: None, configure: Any) -> None:
    configure(max_files=3, max_transfer_size=20)
    sent = sender.ready({"a": b"1" * 10})
    batch = added(sent, {"b": b"2" * 5})
    for more, field in (
        ({"c": b"3" * 6}, "files"),
        ({"c": b"3", "d": b"4"}, "files"),
        ({"a": b"1"}, "files.0.path"),
        ({"b": b"22"}, "files.0.path"),
    ):
        answer = sent.call("POST", "/files", json={"files": announced(more)})
        assert answer.status_code == 400
        assert [one["field"] for one in answer.json["error"]["fields"]] == [field]
    again = sent.call("POST", "/files", json={"files": announced({"b": b"2" * 5})})
    assert (again.status_code, again.json["files"]) == (201, batch.files)
    assert len(sent.show()["files"]) == 2


@pytest.mark.parametrize("end", ["expired", "due", "blocked", "deleted", "processing"])
def test_what_cannot_take_more_says_why(sender: Sender, inside: None, end: str) -> None:
    sent = sender.ready({"a": b"1"})
    batch = added(sent, {"b": b"2"})
    if end in ("expired", "due"):
        sent.set(expires_at=ago(seconds=1))
    if end == "expired":
        upkeep.expire_due()
    if end == "blocked":
        abuse.quarantine(sent.id)
    if end == "deleted":
        transfers.delete(sent.id)
    if end == "processing":
        sent = batch = sender.create({"a": b"1"}).upload().complete()
    wanted = {"wanted": [{"file": batch.files[0]["id"], "numbers": [1]}]}
    answers = [
        sent.call("POST", "/files", json={"files": announced({"c": b"3"})}),
        sent.call("POST", "/parts", json=wanted),
        sent.call("DELETE", f"/files/{batch.files[0]['id']}"),
    ]
    if end == "processing":
        assert [answer.status_code for answer in answers] == [409] * 3
        return
    answers.append(sent.call("POST", "/complete"))
    word = {"due": "expired", "blocked": "blocked"}.get(end, end)
    told = [answer.json.get("reason", answer.json["error"]["code"]) for answer in answers]
    assert told == [word] * 4
    assert [answer.status_code for answer in answers] == [403 if end == "blocked" else 410] * 4


def test_only_who_may_manage_it_can_add(sender: Sender, inside: None) -> None:
    """By the owner token, or by the word of the manage link that a mail carries."""
    from app.services import mail_links

    sent, other = sender.ready(), sender.ready()
    word = mail_links.manage_token(sent.id)
    for bearer, path, status in (
        (sent.json["owner_token"], "b", 201),
        (word, "c", 201),
        (f"{sent.id}.{sent.json['owner_token']}", "d", 201),
        (mail_links.manage_token(other.id), "e", 404),
        (f"{other.id}.{other.json['owner_token']}", "e", 404),
        (mail_links.extend_seal(sent.id), "e", 404),
        (f"{sent.id}.nonsense", "e", 404),
        (sent.slug, "e", 404),
    ):
        answer = sender.client.post(
            f"{sent.url}/files",
            json={"files": announced({path: b"x"})},
            headers={"Authorization": f"Bearer {bearer}"},
        )
        assert answer.status_code == status, (path, answer.json)


def test_what_is_there_stays_and_what_comes_can_be_taken_out(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1"})
    batch = added(sent, {"b": b"2", "c": b"3"})
    assert sent.call("DELETE", f"/files/{sent.files[0]['id']}").status_code == 409
    for file in batch.files:
        assert sent.call("DELETE", f"/files/{file['id']}").status_code == 204
    assert sent.show()["batch"] is None
    assert sent.call("DELETE", f"/files/{sent.files[0]['id']}").status_code == 409
    assert sent.call("POST", "/complete").json["status"] == "READY"
    assert seen(sent) == sums({"a": b"1"})


# -- when it fails -------------------------------------------------------------------------------


def test_what_is_missing_is_named_and_sent_again(sender: Sender, inside: None) -> None:
    sent = sender.ready(OLD)
    batch = added(sent).upload(without=(("folder/d", 2),)).complete()
    check(sent)
    shown = sent.show()
    assert (shown["status"], shown["batch"]["status"]) == ("READY", "INIT")
    problems = {
        file["path"]: file["problem"] and file["problem"]["code"] for file in shown["files"]
    }
    assert {path for path, problem in problems.items() if problem} == {"folder/d"}
    assert seen(sent) == sums(OLD)
    big = next(file for file in batch.files if file["path"] == "folder/d")
    for part in batch.sign(big, 2):
        assert put(part["url"], batch.piece(big, 2), part["headers"]).status == 200
    batch.complete()
    check(sent)
    assert seen(sent) == sums(OLD, NEW)
    assert not any(file["problem"] for file in sent.show()["files"])


def test_after_too_many_attempts_it_is_open_again_and_says_why(
    sender: Sender, inside: None
) -> None:
    sent = sender.ready({"a": b"1"})
    batch = added(sent, {"b": b"2"}).upload().complete()
    with transaction():
        db.session.execute(
            update(Batch).values(attempt_count=batches.MOST_ATTEMPTS, failure=Failure.STORAGE)
        )
    check(sent)
    shown = sent.show()["batch"]
    assert (shown["status"], shown["problem"]["code"]) == ("INIT", "storage")
    batch.complete()
    check(sent)
    assert seen(sent) == sums({"a": b"1", "b": b"2"})


def test_what_an_attempt_failed_of_is_not_told_of_a_later_one(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1"})
    added(sent, {"b": b"2", "c": b"3"}).upload(without=(("c", 1),)).complete()
    with transaction():
        db.session.execute(update(Batch).values(attempt_count=1, failure=Failure.STORAGE))
    check(sent)
    shown = sent.show()
    assert (shown["batch"]["status"], shown["batch"]["problem"]) == ("INIT", None)
    assert shown["files"][2]["problem"]["code"] == "missing"


def test_f29_a_late_runner_is_fenced_out(sender: Sender, inside: None) -> None:
    """Its lease lapsed and another took over: it neither reopens the batch nor adds its files."""
    sent = sender.ready({"a": b"1"})
    added(sent, {"b": b"2"}).upload().complete()
    (file,) = transfers.files_of(sent.id, File.batch.is_(None), with_coming=True)
    is_closed = Batch.closed_at.is_not(None)
    with leases.hold(Batch, sent.id, is_closed) as late:
        assert late is not None
        with transaction():
            db.session.execute(update(Batch).values(lease_until=ago(seconds=1)))
        with leases.hold(Batch, sent.id, is_closed) as taker:
            assert taker is not None
            batches._settle(late, {file.id: Outcome(file.upload.id, problem=Problem.LOST)})
            batches._give_up(late)
            assert checking.record_completed(taker, [completing.complete(file.upload)])
            batches._settle(late, {})
            assert sent.show()["batch"]["status"] == "PROCESSING"
    check(sent)
    assert sent.show()["batch"] is None
    assert [file["path"] for file in sent.show()["files"]] == ["a", "b"]


@pytest.mark.parametrize("how", ["dropped", "abandoned"])
def test_a_batch_that_is_given_up_goes_alone(sender: Sender, inside: None, how: str) -> None:
    sent = sender.ready(OLD).zip()
    keys = [file.upload.key for file in transfers.files_of(sent.id)]
    batch = added(sent).upload()
    coming = transfers.files_of(sent.id, File.batch.is_(None), with_coming=True)
    if how == "dropped":
        for _ in range(2):
            assert sent.call("DELETE", "/batch").status_code == 204
    else:
        assert upkeep.delete_abandoned() == 0
        with transaction():
            db.session.execute(update(Batch).values(last_activity_at=ago(hours=24, seconds=1)))
        assert [one.look(lambda *_: None).count for one in _abandoned()] == [1]
        assert upkeep.delete_abandoned() == 1
    assert sent.show()["batch"] is None
    upkeep.remove_bytes()
    assert [storage.head(file.upload.key) for file in coming] == [None] * len(NEW)
    assert all(storage.head(key) for key in keys)
    assert (seen(sent), zipped(sent)) == (sums(OLD), sums(OLD))
    assert batch.call("POST", "/parts", json={"wanted": [], "sent": []}).status_code == 400
    check(sent)
    through(sent, {"e": b"5"})
    assert seen(sent) == sums(OLD, {"e": b"5"})


def _abandoned() -> list[Any]:
    from app.services import dry_runs

    return [one for one in dry_runs.SWEEPS if one.run is upkeep.delete_abandoned]


def test_deleting_the_transfer_takes_the_batch_along(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1"})
    added(sent, {"b": b"2"}).upload().complete()
    transfers.delete(sent.id)
    check(sent)
    upkeep.remove_bytes()
    for file in transfers.files_of(sent.id, with_coming=True):
        assert file.upload.state is UploadState.ABORTED
        assert storage.head(file.upload.key) is None


def test_a_batch_outlives_the_expiry_and_goes_on_after_a_revival(
    sender: Sender, inside: None
) -> None:
    sent = sender.ready({"a": b"1"})
    added(sent, {"b": b"2"}).upload().complete()
    sent.set(expires_at=ago(seconds=1))
    upkeep.expire_due()
    check(sent)
    assert sent.row().state is State.EXPIRED
    assert batches.remind_stuck(clock.db_now()) == 0
    sent.call("PATCH", json={"expires_at": None})
    assert batches.remind_stuck(clock.db_now()) == 1
    check(sent)
    assert seen(sent) == sums({"a": b"1", "b": b"2"})


def test_a_lost_reminder_is_repeated(sender: Sender, inside: None, queued: list) -> None:
    sent = sender.ready({"a": b"1"})
    added(sent, {"b": b"2"}).upload().complete()
    with transaction():
        db.session.execute(update(Batch).values(queued_at=ago(seconds=11)))
    upkeep.requeue_stuck()
    with db.session.no_autoflush:
        assert db.session.scalar(select(Batch.queue_count)) == 2


# -- at once -------------------------------------------------------------------------------------


@pytest.mark.real_commits
def test_of_the_last_check_and_an_end_exactly_one_comes_first(app: Flask, sender: Sender) -> None:
    """Whoever is second finds nothing to do: a whole transfer, or none of the new files."""
    ends = [
        lambda sent: transfers.delete(sent.id),
        lambda sent: upkeep.expire_due(),
        lambda sent: batches.drop(sent.row()),
    ]
    for end in ends * 3:
        sent = sender.ready({"a": b"1"})
        added(sent, {"b": b"2"}).upload().complete()
        if end is ends[1]:
            sent.set(expires_at=clock.now())
        acts = [lambda _, sent=sent: batches.process(str(sent.id)), lambda _, s=sent, e=end: e(s)]
        at_once(app, 2, lambda index, acts=acts: acts[index](index) and None)
        with app.app_context():
            there = transfers.files_of(sent.id)
            coming = transfers.files_of(sent.id, File.batch.is_(None), with_coming=True)
            row = transfers.of_id(sent.id)
            assert [file.path for file in there] in (["a"], ["a", "b"])
            assert row.batch_count == len(there) - 1
            if row.state is State.READY:
                assert coming == []
            if row.state is State.DELETED:
                states = {file.upload.state for file in there + coming}
                assert states == {UploadState.ABORTED}
            db.session.remove()


@pytest.mark.real_commits
def test_two_tabs_fill_one_batch_and_two_workers_take_it_once(app: Flask, sender: Sender) -> None:
    sent = sender.ready({"a": b"1"})

    def add(index: int) -> str:
        transfer = transfers.of_id(sent.id)
        (file,) = batches.add_files(transfer, [FileSpec(f"tab {index}", 1)])
        return file.path

    assert sum(at_once(app, 4, add).values()) == 4
    batch = Sent(sent.client, sent.show(), {f"tab {n}": b"x" for n in range(4)})
    batch.json["files"] = [file for file in batch.files if file["is_coming"]]
    batch.json["owner_token"] = sent.json["owner_token"]
    batch.upload()

    def complete(_: int) -> int:
        return app.test_client().post(f"{sent.url}/complete", headers=sent.headers).status_code

    assert at_once(app, 4, complete) == {202: 4}
    at_once(app, 3, lambda _: batches.process(str(sent.id)))
    assert (sent.row().batch_count, len(sent.show()["files"])) == (1, 5)
    assert sent.show()["batch"] is None


@pytest.mark.real_commits
def test_nothing_is_added_to_what_is_being_checked(app: Flask, sender: Sender) -> None:
    sent = sender.ready({"a": b"1"})
    added(sent, {"b": b"2"}).upload().complete()
    answer = sent.call("POST", "/files", json={"files": announced({"c": b"3"})})
    assert answer.status_code == 409
    check(sent)
    assert sent.call("POST", "/files", json={"files": announced({"c": b"3"})}).status_code == 201


@pytest.mark.parametrize("state", ["INIT", "READY"])
def test_of_two_requests_under_one_key_both_under_way_the_second_finds_the_first(
    sender: Sender, inside: None, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    transfer = (sender.ready if state == "READY" else sender.create)({"a": b"1"}).row()
    agree = contents.agree_on_checksums

    def add(path: str) -> list[uuid.UUID]:
        once = idempotency.once("key", "ada", path.encode())
        return [file.id for file in batches.add_files(transfer, [FileSpec(path, 1)], once)]

    def add_b_meanwhile(specs: Any) -> Any:
        monkeypatch.setattr(contents, "agree_on_checksums", agree)
        firsts.append(add("b"))
        return agree(specs)

    firsts: list[list[uuid.UUID]] = []
    monkeypatch.setattr(contents, "agree_on_checksums", add_b_meanwhile)
    assert [add("b")] == firsts
    db.session.execute(delete(IdempotencyKey))
    contents.remove_file(transfer, *firsts.pop())
    monkeypatch.setattr(contents, "agree_on_checksums", add_b_meanwhile)
    with pytest.raises(KeyReused):
        add("c")
    assert len(firsts) == 1


# -- who hears of it -----------------------------------------------------------------------------


def test_recipients_hear_of_it_if_their_sender_wants_that(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    sent = addressed(sender.ready({"a": b"1"}), "bo@example.org", "cy@example.org")
    send_mail(app)
    through(sent, {"b": b"2"})
    assert send_mail(app) == 0
    through(sent, {"c": b"3" * 1000, "d": b"4"}, tell_recipients=True)
    assert send_mail(app) == 2
    letter = mail.to("bo@example.org")[-1]
    assert letter.subject == "ada@example.org has added 2 files"
    text = letter.body("plain")
    assert ("c" in text.split(), "b" in text.split()) == (True, False)
    assert sent.slug not in text
    # Not twice in an hour, however many batches there are.
    through(sent, {"e": b"5"}, tell_recipients=True)
    assert send_mail(app) == 0
    with app.app_context(), transaction():
        db.session.execute(update(OutboxMail).values(created_at=ago(hours=2)))
    pass_time(app, hours=2)
    through(sent, {"f": b"6"}, tell_recipients=True)
    assert send_mail(app) == 2


def test_too_much_mail_is_refused_before_anything_is_said(
    app: Flask, sender: Sender, mail: MailServer, configure: Any
) -> None:
    sent = addressed(sender.ready({"a": b"1"}), "bo@example.org")
    batch = added(sent, {"b": b"2"}).upload()
    configure(max_recipients_per_day=1)
    answer = batch.call("POST", "/complete", json={"tell_recipients": True})
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "too_much_mail")
    assert sent.show()["batch"]["status"] == "INIT"
    assert batch.call("POST", "/complete").status_code == 202


def test_without_mail_nobody_can_be_told(sender: Sender) -> None:
    batch = added(sender.ready({"a": b"1"}), {"b": b"2"}).upload()
    answer = batch.call("POST", "/complete", json={"tell_recipients": True})
    assert [one["field"] for one in answer.json["error"]["fields"]] == ["tell_recipients"]
    answer = batch.call("POST", "/complete", json={"tell_recipients": "yes"})
    assert [one["field"] for one in answer.json["error"]["fields"]] == ["tell_recipients"]


def test_what_storage_holds_of_a_batch_is_told(sender: Sender, inside: None) -> None:
    sent = sender.ready({"a": b"1"})
    batch = added(sent).upload(without=(("folder/d", 2), ("c", 1)))
    held = {one["id"]: one["held"] for one in sent.call("GET", "/parts").json["files"]}
    assert [held[file["id"]] for file in sent.files + batch.files] == [[1], [], [1], [1]]
