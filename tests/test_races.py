"""Concurrent calls, with real threads and real commits: exactly as many win as may."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from app import clock
from app.config import MIB
from app.db import db, transaction
from app.errors import AppError
from app.extensions import storage
from app.models import Download, Scope, State, Transfer, UploadState
from app.services import (
    abuse,
    accounts,
    asking,
    boards,
    checking,
    downloads,
    extension_requests,
    file_requests,
    options,
    own_keys,
    program_access,
    staging,
    transfers,
    upkeep,
)
from app.services.boards import LinkSpec
from app.services.contents import FileSpec
from tests.factories import Machine, Sender, put
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail

pytestmark = pytest.mark.real_commits
PART = 8 * MIB


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def at_once(app: Flask, count: int, act: Callable[[int], Any]) -> Counter:
    """The results of `count` threads started together, counted; an AppError by its code."""
    gate = threading.Barrier(count)

    def run(index: int) -> Any:
        with app.app_context():
            gate.wait()
            try:
                return act(index)
            except AppError as error:
                return error.code
            finally:
                db.session.remove()

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(run, range(count)))


def test_f17_many_completes_queue_one_job(app: Flask, sender: Sender, queued: list) -> None:
    sent = sender.create().upload()

    def complete(_: int) -> int:
        return app.test_client().post(f"{sent.url}/complete", headers=sent.headers).status_code

    assert at_once(app, 12, complete) == {202: 12}
    assert queued == [("checking.process", str(sent.id))]


def test_many_deletes_have_one_winner(app: Flask, sender: Sender) -> None:
    sent = sender.ready()
    assert at_once(app, 12, lambda _: transfers.delete(sent.id)) == {True: 1, False: 11}


@pytest.mark.parametrize("limit", [1, 3])
def test_f42_f53_as_many_downloads_pass_as_are_left(app: Flask, sender: Sender, limit: int) -> None:
    sent = sender.ready(max_downloads=limit)
    file_id = uuid.UUID(sent.files[0]["id"])

    def click(index: int) -> str:
        downloads.file_url(sent.slug, file_id, f"visitor {index}")
        return "link"

    for _ in range(3):
        assert at_once(app, 16, click)["link"] <= limit
    assert sent.row().download_count == limit
    with app.app_context():
        assert db.session.query(Download).count() == limit


def test_f57_zips_and_files_at_once_count_by_one_rule(app: Flask, sender: Sender) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"}, max_downloads=1).zip()
    ids = [uuid.UUID(file["id"]) for file in sent.files]

    def click(index: int) -> str:
        if index % 2:
            downloads.file_url(sent.slug, ids[index % 4 // 2], f"visitor {index}")
        else:
            assert downloads.zip_url(sent.slug, f"visitor {index}") is not None
        return "link"

    assert at_once(app, 20, click) == {"link": 1, "gone": 19}
    assert sent.row().download_count == 1


def test_two_clicks_of_one_browser_at_once_are_one_download(app: Flask, sender: Sender) -> None:
    sent = sender.ready({"a": b"1", "b": b"2"}, max_downloads=1)
    ids = [uuid.UUID(file["id"]) for file in sent.files]

    def click(index: int) -> str:
        downloads.file_url(sent.slug, ids[index % 2], "ada")
        return "link"

    assert at_once(app, 8, click) == {"link": 8}
    assert sent.row().download_count == 1


def test_concurrent_questions_of_one_visitor_count_as_one(app: Flask, sender: Sender) -> None:
    sent = sender.ready(max_downloads=1).set(download_count=1)
    told = at_once(app, 12, lambda _: asking.ask(sent.slug, "ada", None, "please"))
    assert told == {True: 1, False: 11}
    with app.app_context():
        assert extension_requests.count(sent.id) == 1


def test_s31_no_download_is_counted_once_it_is_quarantined(app: Flask, sender: Sender) -> None:
    """Requests before the quarantine get their link; none does after it has committed."""
    for _ in range(5):
        sent = sender.ready()
        file_id = uuid.UUID(sent.files[0]["id"])
        counted: list[int] = []

        def act(index: int, sent: Any = sent, file_id: Any = file_id, seen: Any = counted) -> str:
            if index == 0:
                abuse.quarantine(sent.id)
                seen.append(transfers.of_id(sent.id).download_count)
                return "blocked"
            downloads.count_once(sent.id, file_id, f"visitor {index}")
            return "counted"

        told = at_once(app, 8, act)
        assert told["blocked"] == 1
        assert told["counted"] + told["gone"] == 7
        assert counted == [sent.row().download_count] == [told["counted"]]


def test_f22_delete_against_process_leaves_nothing_half_done(app: Flask, sender: Sender) -> None:
    for _ in range(5):
        sent = sender.create({"a": b"1", "big": b"b" * (PART + 1)}).upload().complete()

        def act(index: int, sent: Any = sent) -> None:
            transfers.delete(sent.id) if index % 2 else checking.process(str(sent.id))

        at_once(app, 4, act)
        assert sent.row().state is State.DELETED
        with app.app_context():
            files = transfers.files_of(sent.id)
            upkeep.remove_bytes()
            assert {file.upload.state for file in files} == {UploadState.ABORTED}
            assert [storage.head(file.upload.key) for file in files] == [None, None]


def test_f22_revival_against_removal_has_one_winner(app: Flask, sender: Sender) -> None:
    """Again and again, around the end of the grace period: either alive and whole, or gone."""
    won: Counter = Counter()
    for number in range(25):
        sent = sender.ready({"a": b"1", "b": b"2"}).set(expires_at=ago(seconds=1))
        with app.app_context():
            upkeep.expire_due()
            row = sent.row()
            keys = [file.upload.key for file in transfers.files_of(sent.id)]
        sent.set(expired_at=ago(days=3, milliseconds=-4 * number))

        def revive_or_remove(index: int, row: Transfer = row) -> str:
            if index % 2:
                return f"{upkeep.delete_expired()} removed"
            options.edit(row, {"expires_at": clock.now() + timedelta(days=1)})
            return "revived"

        got = at_once(app, 4, revive_or_remove)
        with app.app_context():
            upkeep.delete_expired()
            upkeep.remove_bytes()
            held = [storage.head(key) is not None for key in keys]
        # Two threads set a new date: if the first succeeds, so does the second; or both are late.
        is_alive = sent.row().state is State.READY
        assert got["revived"] == (2 if is_alive else 0), got
        assert held == [is_alive] * 2
        won[is_alive] += 1
    assert len(won) == 2, won


def test_many_process_jobs_have_one_effect(app: Flask, sender: Sender) -> None:
    sent = sender.create({"a": b"1", "big": b"b" * (PART + 1)}).upload().complete()
    at_once(app, 6, lambda _: checking.process(str(sent.id)))
    assert sent.row().state is State.READY


def test_many_first_requests_open_one_multipart(app: Flask, sender: Sender) -> None:
    sent = sender.create({"big": b"b" * (PART + 1)})
    wanted = {"wanted": [{"file": sent.files[0]["id"], "numbers": [1]}]}

    def sign(_: int) -> int:
        client = app.test_client()
        return client.post(f"{sent.url}/parts", json=wanted, headers=sent.headers).status_code

    assert at_once(app, 8, sign) == {200: 8}
    with app.app_context():
        kept = transfers.files_of(sent.id)[0].upload
        still_open = [
            one.s3_upload_id
            for page in storage.open_uploads()
            for one in page
            if one.key == kept.key
        ]
    assert still_open == [kept.s3_upload_id]


def test_f50_four_sweeps_at_once_share_the_work(app: Flask, sender: Sender, monkeypatch) -> None:
    removed: list[str] = []
    delete = storage.delete
    monkeypatch.setattr(storage, "delete", lambda keys: (removed.extend(keys), delete(keys))[1])
    monkeypatch.setattr(upkeep, "BATCH", 5)
    sent = sender.ready({f"f{n}": b"x" for n in range(20)})
    with app.app_context():
        keys = [file.upload.key for file in transfers.files_of(sent.id)]
        transfers.delete(sent.id)
    at_once(app, 4, lambda _: upkeep.remove_bytes())
    assert sorted(removed) == sorted(keys)


def test_adding_and_completing_at_once_never_loses_a_file(app: Flask, sender: Sender) -> None:
    """Either the file is added before the completion and then missed, or it is refused."""
    for _ in range(5):
        sent = sender.create().upload()

        def act(index: int, sent: Any = sent) -> int:
            client = app.test_client()
            if index:
                return client.post(f"{sent.url}/complete", headers=sent.headers).status_code
            body = {"files": [{"path": "late", "size": 1}]}
            return client.post(f"{sent.url}/files", json=body, headers=sent.headers).status_code

        codes = at_once(app, 2, act)
        sent.process()
        shown = sent.show()
        if codes[201]:
            assert (shown["status"], len(shown["files"])) == ("INIT", 2)
        else:
            assert (codes[409], shown["status"], len(shown["files"])) == (1, "READY", 1)


def test_removing_the_last_file_against_completing(app: Flask, sender: Sender) -> None:
    """A transfer never becomes READY without files."""
    for _ in range(5):
        sent = sender.create().upload()
        paths = [("DELETE", f"/files/{sent.files[0]['id']}"), ("POST", "/complete")]

        def act(index: int, sent: Any = sent, paths: Any = paths) -> int:
            method, path = paths[index]
            return (
                app.test_client()
                .open(sent.url + path, method=method, headers=sent.headers)
                .status_code
            )

        at_once(app, 2, act)
        sent.process()
        shown = sent.show()
        assert (shown["status"], len(shown["files"])) in {("INIT", 0), ("READY", 1)}


def test_keys_issued_at_once_for_a_new_workspace_are_all_of_one(app: Flask) -> None:
    def issue(index: int) -> uuid.UUID:
        return accounts.issue_key("Acme", str(index), Scope.READ).row.workspace_id

    assert list(at_once(app, 8, issue).values()) == [8]


def test_keys_that_a_person_makes_at_once_are_of_one_workspace_and_within_the_limit(
    app: Flask, configure: Callable[..., None]
) -> None:
    configure(mail_url="file:///nobody/sends/it", senders=(ADA,))
    most = own_keys.MOST_LIVE

    def make(key_id: uuid.UUID) -> uuid.UUID | None:
        made = own_keys.make(key_id, ADA, name="a", scope=Scope.READ)
        return made and made.row.workspace_id

    once = uuid.uuid4()
    found = at_once(app, 4, lambda index: make(once))
    (workspace_id,) = found - Counter({None: 3})
    results = at_once(app, most + 4, lambda index: make(uuid.uuid4()))
    assert results == {workspace_id: most - 1, "invalid": 5}


def test_keys_that_several_people_make_at_once_with_one_id_are_one(
    app: Flask, configure: Callable[..., None]
) -> None:
    """Forms have random ids, but whoever sends one may choose what is in it."""
    configure(mail_url="file:///nobody/sends/it", senders=("@example.org",))
    for _ in range(5):
        once = uuid.uuid4()

        def make(index: int, once: uuid.UUID = once) -> bool:
            email = f"{index}@example.org"
            return own_keys.make(once, email, name="a", scope=Scope.READ) is not None

        assert at_once(app, 4, make) == {True: 1, False: 3}


def test_a_key_that_is_revoked_by_many_is_revoked_once(app: Flask) -> None:
    with app.app_context():
        prefix = accounts.issue_key("Acme", "a", Scope.READ).row.prefix
    assert at_once(app, 8, lambda index: accounts.revoke_key(prefix)) == {True: 1, False: 7}


def test_concurrent_additions_to_a_board_get_distinct_positions(app: Flask) -> None:
    with app.app_context():
        caller = accounts.authenticate(accounts.issue_key("Acme", "a", Scope.WRITE).text)
        board = boards.create(caller, "b", None)

    def add(index: int) -> int:
        links = [LinkSpec(f"https://example.org/{index}", str(n)) for n in range(3)]
        if index % 2:
            return len(boards.add_links(board, links))
        return len(boards.add_files(board, caller, [FileSpec("a", 1, part_size=6 * MIB)] * 3))

    assert at_once(app, 8, add) == {3: 8}
    with app.app_context():
        items = boards.items_of(board.id)
    assert [one.position for one in items] == list(range(24))
    # The items of one call are adjacent.
    for first in range(0, 24, 3):
        assert len({bool(one.file_id) for one in items[first : first + 3]}) == 1


def test_finalize_by_many_clients_queues_once(
    app: Flask, machine: Machine, queued: list[tuple[str, ...]]
) -> None:
    made = machine.create({"a": b"1"})
    machine.upload(made, {"a": b"1"})
    path = f"/v2/transfers/{made['id']}/finalize"

    def finalize(index: int) -> int:
        return app.test_client().put(path, headers=machine.headers).status_code

    assert at_once(app, 8, finalize) == {200: 8}
    assert queued == [("checking.process", made["id"])]


def test_concurrent_completes_of_one_put_have_one_winner(
    app: Flask, machine: Machine, queued: list
) -> None:
    made = machine.make()
    told = machine.native("POST", f"/{made['id']}/upload-url", json={"filename": "a"})
    put(told.json["upload_url"], b"1")
    transfer_id = uuid.UUID(made["id"])

    def complete(index: int) -> Any:
        return staging.complete(transfers.of_id(transfer_id)).state

    results = at_once(app, 8, complete)
    assert (results[State.READY], results["wrong_state"]) == (1, 7)
    with app.app_context():
        assert len(transfers.files_of(transfer_id)) == 1


def test_concurrent_downloads_by_a_program_stay_within_the_limit(
    app: Flask, machine: Machine
) -> None:
    made = machine.put_one(max_downloads=3)
    with app.app_context():
        caller = accounts.authenticate(machine.key)

    def ask(index: int) -> Any:
        transfer = transfers.of_id(uuid.UUID(made["id"]))
        return bool(program_access.download_url(transfer, None, 5, caller))

    assert at_once(app, 10, ask) == {True: 3, "transfer_limit_reached": 7}


def test_concurrent_requests_with_the_same_idempotency_key_are_done_once(
    app: Flask, machine: Machine
) -> None:
    made = machine.make(files=[])
    bodies = {
        f"/transfers/{made['id']}/files": {"files": [{"path": "a", "size": 1}]},
        "/v2/boards": {"name": "b"},
    }
    for path, body in bodies.items():
        headers = machine.headers | {"Idempotency-Key": uuid.uuid4().hex}
        if not path.startswith("/v2"):
            headers["Authorization"] = f"Bearer {machine.key}"

        def ask(index: int, path=path, body=body, headers=headers) -> Any:
            answer = app.test_client().post(path, json=body, headers=headers)
            return answer.status_code, answer.text

        results = at_once(app, 8, ask)
        assert len(results) == 1, results
        assert next(iter(results))[0] == 201


def test_of_concurrent_edits_of_the_same_version_only_one_is_accepted(
    app: Flask, machine: Machine
) -> None:
    made = machine.put_one()
    seen = machine.native("GET", f"/{made['id']}").headers["ETag"]
    headers = {"Authorization": f"Bearer {machine.key}", "If-Match": seen}

    def edit(index: int) -> Any:
        path, body = f"/transfers/{made['id']}", {"title": f"by {index}"}
        return app.test_client().patch(path, json=body, headers=headers).status_code

    assert at_once(app, 6, edit) == {200: 1, 412: 5}


def test_s41_file_requests_made_at_once_are_as_many_as_may_be_open(app: Flask, monkeypatch) -> None:
    monkeypatch.setattr(file_requests, "MOST_OPEN", 2)
    new = {"title": "Photos", "message": "", "days": 1}
    made = at_once(app, 8, lambda _: file_requests.make(uuid.uuid4(), ADA, **new))
    assert made == {None: 2, "invalid": 6}


def asked_by_ada() -> tuple[uuid.UUID, str]:
    """A new file request: its id and slug."""
    request_id = uuid.uuid4()
    file_requests.make(request_id, ADA, title="Photos", message="", days=1)
    return request_id, file_requests.one_of(ADA, request_id).slug


def test_nothing_that_comes_for_a_request_just_behind_something_else_is_left_untold(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    """A worker sends the first one's mail before the second has committed."""
    with app.app_context():
        _, slug = asked_by_ada()
    first, second = (sender.ready(file_request=slug) for _ in range(2))
    send_mail(app)
    before = len(mail.caught)
    first_has_come, second_has_come, is_sent = (threading.Event() for _ in range(3))

    def come_behind() -> None:
        first_has_come.wait(5)
        with app.app_context(), transaction():
            file_requests.announce(second.id)
            second_has_come.set()
            is_sent.wait(5)

    behind = threading.Thread(target=come_behind)
    behind.start()
    with app.app_context(), transaction():
        file_requests.announce(first.id)
        first_has_come.set()
        assert not second_has_come.wait(0.3)
    assert second_has_come.wait(5)
    send_mail(app)
    is_sent.set()
    behind.join()
    send_mail(app)
    told = "".join(one.body("plain") for one in mail.caught[before:])
    assert [told.count(one.slug) for one in (first, second)] == [1, 1]


def test_what_is_stopped_just_when_its_request_is_released_does_not_stay_stopped(
    app: Flask, sender: Sender, mail: MailServer
) -> None:
    with app.app_context():
        request_id, slug = asked_by_ada()
        came = sender.ready(file_request=slug)
        request = abuse.find_any(f"http://localhost/r/{slug}")
        abuse.block(request)
    is_released = threading.Event()

    def release() -> None:
        with app.app_context():
            assert abuse.unblock(request)
            is_released.set()

    releasing = threading.Thread(target=release)
    with app.app_context(), transaction():
        assert abuse.block_what_came(request_id) == 1
        releasing.start()
        is_released.wait(0.3)
    releasing.join()
    assert came.row().quarantined_at is None
    with app.app_context():
        assert abuse.block_what_came(request_id) == 0
