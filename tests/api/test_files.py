"""/files: a form that storage holds to its policy, and what it brings, kept by its first bytes."""

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from sqlalchemy import func, select

from app import clock, crash
from app.config import MIB, settings
from app.db import db, transaction
from app.extensions import storage
from app.gateways.s3_answers import Away
from app.models import AuditEvent, Scope, SmallFile, Upload, UploadState
from app.services import accounts, dry_runs, reconciling, small_files, upkeep
from tests.factories import Program, post
from tests.watching import statements

Configure = Callable[..., None]
KEY = re.compile(r"uploads/\d{4}/\d\d/\d\d/[0-9a-f-]{36}\.txt")
NOBODY = "00000000-0000-4000-8000-000000000000"


# -- the way -------------------------------------------------------------------------------------


def test_a_file_comes_is_confirmed_fetched_and_deleted(app: Flask, program: Program) -> None:
    name = 'Füße ☕ "b".txt'
    form = program.offer(name, content_type="text/plain", metadata={"case": "17"})
    assert set(form) == {"url", "key", "fields", "expires_in", "max_size"}
    assert KEY.fullmatch(form["key"])
    assert form["fields"]["key"] == settings.s3_prefix + form["key"]
    assert (form["expires_in"], form["max_size"]) == (3600, 100 * MIB)
    body = bytes(range(256)) * 1000
    assert post(form, body) == (201, "")
    told = program.confirm(form["key"]).json
    assert told == {
        "file_id": told["file_id"],
        "key": form["key"],
        "filename": name,
        "size": len(body),
        "content_type": "text/plain",
        "metadata": {"case": "17"},
        "confirmed_at": told["confirmed_at"],
    }
    assert program.call("GET").json["items"] == [told]
    got = program.fetch(told["file_id"])
    assert got.data == body
    disposition = got.headers["Content-Disposition"]
    assert disposition.startswith("attachment;")
    assert "filename*=UTF-8''F%C3%BC%C3%9Fe%20%E2%98%95%20%22b%22.txt" in disposition
    assert got.headers["Content-Type"] == "application/octet-stream"
    path = f"/{told['file_id']}"
    assert [program.call("DELETE", path).status_code for _ in range(2)] == [204, 404]
    assert program.call("GET", f"/download{path}").status_code == 404
    assert program.call("GET").json["total_count"] == 0
    with app.app_context():
        upkeep.remove_bytes()
        assert not {form["fields"]["key"], key_in(got.url)} & keys_held()


def key_in(url: str) -> str:
    """The object's key in an address of storage."""
    return urlsplit(url).path.removeprefix(f"/{settings.s3_bucket}/")


def keys_held() -> set[str]:
    """The objects that lie in the bucket for small files, of other tests too."""
    return {one.key for page in storage.objects() for one in page if "/uploads/" in one.key}


@pytest.mark.parametrize(
    ("changed", "size", "verdict"),
    [
        ({"key": "beeline/uploads/other.txt"}, 1, (403, "AccessDenied")),
        ({"Content-Type": "text/html"}, 1, (403, "AccessDenied")),
        ({"x-amz-meta-more": "1"}, 1, (403, "AccessDenied")),
        ({"success_action_redirect": "https://evil.example/"}, 1, (403, "AccessDenied")),
        ({"x-amz-signature": "0" * 64}, 1, (403, "SignatureDoesNotMatch")),
        ({}, 1001, (400, "EntityTooLarge")),
        ({}, 1000, (201, "")),
        ({}, 0, (201, "")),
    ],
)
def test_storage_refuses_what_breaks_the_policy(
    program: Program, configure: Configure, changed: Any, size: int, verdict: tuple[int, str]
) -> None:
    configure(max_small_file_size=1000)
    form = program.offer(content_type="text/plain")
    assert post(form, bytes(size), **changed) == verdict
    assert program.confirm(form["key"]).status_code == (404 if verdict[1] else 200)


def test_a_form_ends(program: Program, configure: Configure, monkeypatch: Any) -> None:
    configure(part_url_ttl_in_seconds=120)
    early = clock.now() - timedelta(seconds=121)
    monkeypatch.setattr(clock, "now", lambda: early)
    assert post(program.offer(), b"1") == (403, "AccessDenied")


def test_a_size_that_is_told_is_the_most_that_may_come(program: Program) -> None:
    form = program.offer(size=3)
    assert form["max_size"] == 3
    assert post(form, b"1234") == (400, "EntityTooLarge")
    assert post(form, b"123") == (201, "")


# -- confirming ----------------------------------------------------------------------------------


def test_confirming_again_says_the_same(app: Flask, program: Program) -> None:
    form = program.sent()
    spellings = [
        form["key"],
        form["key"].replace("/", "%2F"),
        form["fields"]["key"],
    ]
    told = [program.confirm(one) for one in spellings]
    with app.app_context():
        upkeep.remove_bytes()
    told.append(program.confirm(form["key"]))
    assert [one.status_code for one in told] == [200] * 4
    assert len({one.data for one in told}) == 1


def test_what_has_not_come_or_is_unknown_is_404_each_time(program: Program) -> None:
    form = program.offer()
    for key in (
        form["key"],
        "uploads/2026/01/02/x.txt",
        "x",
        "..%2f..",
        "a%00b",
        form["key"] + "/",
    ):
        for _ in range(2):
            assert program.confirm(key).status_code == 404
    assert post(form, b"1") == (201, "")
    assert program.confirm(form["key"]).status_code == 200


def test_other_bytes_after_the_confirmation_change_nothing(app: Flask, program: Program) -> None:
    form = program.sent(b"what was looked at")
    file = program.confirm(form["key"]).json
    assert post(form, b"something else") == (201, "")
    assert program.confirm(form["key"]).json == file
    got = program.fetch(file["file_id"])
    assert got.data == b"what was looked at"
    with app.app_context():
        upkeep.remove_bytes()
        held = keys_held()
        assert (key_in(got.url) in held, form["fields"]["key"] in held) == (True, False)
        # Not over while the form can still bring bytes.
        posted = db.session.scalar(select(Upload).where(Upload.key == form["fields"]["key"]))
        assert (posted.state, posted.removed_at) == (UploadState.ABORTED, None)


def test_other_bytes_between_looking_and_copying_are_not_taken(
    program: Program, monkeypatch: Any
) -> None:
    form = program.sent(b"first")
    copy = storage.copy_whole

    def swapped(*given: Any) -> None:
        assert post(form, b"other") == (201, "")
        copy(*given)

    monkeypatch.setattr(storage, "copy_whole", swapped)
    assert [program.confirm(form["key"]).status_code for _ in range(2)] == [409, 409]
    monkeypatch.setattr(storage, "copy_whole", copy)
    assert program.confirm(form["key"]).status_code == 409
    assert post(form, b"first") == (201, "")
    file = program.confirm(form["key"]).json
    assert program.fetch(file["file_id"]).data == b"first"


def test_a_copy_that_outlived_the_request_for_it_is_found_by_the_next(
    program: Program, monkeypatch: Any
) -> None:
    form = program.sent(b"large")
    copy = storage.copy_whole

    def cut_off(*given: Any) -> None:
        copy(*given)
        raise Away

    monkeypatch.setattr(storage, "copy_whole", cut_off)
    assert program.confirm(form["key"]).status_code == 503
    again = program.confirm(form["key"])
    assert again.status_code == 200
    assert program.fetch(again.json["file_id"]).data == b"large"


@pytest.mark.parametrize("point", ["confirm.1", "confirm.2"])
def test_who_dies_while_confirming_is_followed_by_who_asks_again(
    app: Flask, program: Program, monkeypatch: Any, point: str
) -> None:
    form = program.sent()

    def die(at: str) -> None:
        if at == point:
            raise SystemExit

    monkeypatch.setattr(crash, "point", die)
    with pytest.raises(SystemExit):
        program.confirm(form["key"])
    assert program.call("GET").json["total_count"] == 0
    monkeypatch.undo()
    file = program.confirm(form["key"]).json
    assert program.fetch(file["file_id"]).data == b"hello"


def test_a_copy_that_storage_does_not_show_yet_is_no_file_yet(
    program: Program, monkeypatch: Any
) -> None:
    form = program.sent()
    head, posted = storage.head, form["fields"]["key"]
    monkeypatch.setattr(storage, "head", lambda key: head(key) if key == posted else None)
    answer = program.confirm(form["key"])
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    monkeypatch.undo()
    assert program.confirm(form["key"]).status_code == 200


@pytest.mark.real_commits
def test_many_who_confirm_at_once_have_one_file(app: Flask, program: Program) -> None:
    form = program.sent()

    def confirm(_: int) -> tuple[int, bytes]:
        headers = {"x-api-key": program.key}
        one = app.test_client().post(f"/files/confirm/{form['key']}", headers=headers)
        return one.status_code, one.data

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(confirm, range(12)))
    assert {status for status, _ in told} == {200}
    assert len({body for _, body in told}) == 1
    with app.app_context():
        noted = select(func.count()).where(AuditEvent.action == "confirm file")
        file_id = uuid.UUID(program.call("GET").json["items"][0]["file_id"])
        assert db.session.scalar(noted.where(AuditEvent.subject_id == file_id)) == 1


def test_what_is_deleted_while_it_is_confirmed_stays_deleted(
    app: Flask, program: Program, monkeypatch: Any
) -> None:
    form = program.sent()

    def delete(at: str) -> None:
        if at == "confirm.2":
            monkeypatch.undo()
            file = db.session.scalar(
                select(SmallFile).where(SmallFile.key == form["fields"]["key"])
            )
            small_files.remove(accounts.authenticate(program.key), file.id)

    monkeypatch.setattr(crash, "point", delete)
    assert program.confirm(form["key"]).status_code == 404
    with app.app_context():
        states = set(db.session.scalars(select(Upload.state)))
        assert states == {UploadState.ABORTED}
        # The copy came after the row was gone: removal comes round again for it.
        assert db.session.scalar(select(func.count()).where(Upload.urls_until.is_(None))) == 0


# -- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({}, "filename", "is required"),
        ({"filename": ""}, "filename", "must not be empty"),
        ({"filename": "a/b.txt"}, "filename", "without /"),
        ({"filename": ".."}, "filename", "must not contain"),
        ({"filename": "x" * 256}, "filename", "255 bytes"),
        ({"filename": "a\x00"}, "filename", "control characters"),
        ({"filename": 7}, "filename", "must be text"),
        ({"content_type": "image"}, "content_type", "such as image/png"),
        ({"content_type": "image/png\n"}, "content_type", "control characters"),
        ({"content_type": "image/pñg"}, "content_type", "such as image/png"),
        ({"content_type": "application/x-msdownload"}, "content_type", "image/*, audio/*"),
        ({"filename": "a.html"}, "content_type", "must be one of image/*"),
        ({"size": 100 * MIB + 1}, "size", "must be at most 104857600 bytes (105 MB)"),
        ({"size": -1}, "size", "must be from 0"),
        ({"metadata": []}, "metadata", "must be an object"),
        ({"metadata": {"a": 1}}, "metadata", "must have texts"),
        ({"metadata": {"a": "\x00"}}, "metadata", "control characters"),
        ({"metadata": {str(n): "" for n in range(21)}}, "metadata", "at most 20 texts"),
        ({"expires": 1}, "expires", "is not a known field"),
    ],
)
def test_what_cannot_be_is_400_and_says_why(
    program: Program, given: Any, field: str, words: str
) -> None:
    body = given if given == {} or "filename" in given else {"filename": "a.txt", **given}
    answer = program.call("POST", "/upload-url", json=body)
    assert answer.status_code == 400
    told = {one["field"]: one["message"] for one in answer.json["error"]["fields"]}
    assert words in told[field]


@pytest.mark.parametrize(
    ("name", "content_type", "kept"),
    [
        ("a.pdf", None, "application/pdf"),
        ("a", None, "application/octet-stream"),
        ("a.unknown", "", "application/octet-stream"),
        ("a.txt", "Text/Plain; charset=utf-8", "Text/Plain; charset=utf-8"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document", ...),
    ],
)
def test_the_type_is_the_one_that_is_told_or_the_names(
    program: Program, name: str, content_type: str | None, kept: Any
) -> None:
    form = program.offer(name, content_type=content_type)
    assert form["fields"]["Content-Type"] == (content_type if kept is ... else kept)
    assert post(form, b"1") == (201, "")


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.TXT", ".txt"),
        ("a", ""),
        (".htaccess", ""),
        ("a.tar.gz", ".gz"),
        ("a.%2e", ""),
        ("ü.ñ", ""),
    ],
)
def test_of_a_name_the_key_tells_the_ending_at_most(
    program: Program, name: str, ending: str
) -> None:
    key = program.offer(name, content_type="text/plain")["key"]
    assert re.fullmatch(r"uploads/[0-9/]{10}/[0-9a-f-]{36}" + re.escape(ending), key)


def test_the_installation_says_what_is_allowed(program: Program, configure: Configure) -> None:
    configure(small_file_types=("*/*",))
    program.offer(content_type="application/x-msdownload")
    configure(small_file_types=("application/pdf",))
    assert program.call("POST", "/upload-url", json={"filename": "a.txt"}).status_code == 400
    program.offer("a.PDF")


# -- listing -------------------------------------------------------------------------------------


def test_the_list_comes_in_pages_by_one_query_each(app: Flask, program: Program) -> None:
    for n in range(5):
        program.file(filename=f"{n}.txt")
    program.offer("never came.txt")
    with statements(app) as asked:
        pages = [program.call("GET", f"?limit=2&offset={n}").json for n in (0, 2, 4, 6)]
    names = [[item["filename"] for item in page["items"]] for page in pages]
    assert names == [["4.txt", "3.txt"], ["2.txt", "1.txt"], ["0.txt"], []]
    assert {(page["limit"], page["total_count"]) for page in pages} == {(2, 5)}
    assert sum("FROM small_files" in one for one in asked) == 2 * len(pages)
    assert program.call("GET").json["limit"] == 50


@pytest.mark.parametrize("asked", ["limit=0", "limit=101", "offset=-1", "limit=x", "offset=1.5"])
def test_a_page_that_cannot_be_is_400(program: Program, asked: str) -> None:
    answer = program.call("GET", f"?{asked}")
    assert answer.status_code == 400
    assert answer.json["error"]["fields"][0]["field"] == asked.partition("=")[0]


# -- whose ---------------------------------------------------------------------------------------


def test_another_workspace_finds_nothing(program: Program) -> None:
    form = program.sent(b"1", "secret.txt")
    file = program.confirm(form["key"]).json
    stranger = Program(program.client, "Other", scope=Scope.ADMIN)
    told = [
        stranger.confirm(form["key"]),
        stranger.call("GET", f"/download/{file['file_id']}"),
        stranger.call("DELETE", f"/{file['file_id']}"),
    ]
    assert [one.status_code for one in told] == [404] * 3
    assert not any("secret" in one.text for one in told)
    assert stranger.call("GET").json["items"] == []
    assert Program(program.client).call("GET").json["items"] == [file]


def test_a_key_that_may_only_read_changes_nothing(program: Program) -> None:
    form = program.sent(b"1")
    file = program.confirm(form["key"]).json
    reader = Program(program.client, scope=Scope.READ)
    for method, path in (
        ("POST", "/upload-url"),
        ("POST", f"/confirm/{form['key']}"),
        ("DELETE", f"/{file['file_id']}"),
    ):
        assert reader.call(method, path, json={"filename": "a"}).status_code == 403
    assert reader.call("GET").json["items"] == [file]
    assert reader.fetch(file["file_id"]).data == b"1"
    nobody = Program(program.client)
    nobody.key = "bee_" + "a" * 12 + "_" + "b" * 43
    for method, path in (("GET", ""), ("POST", "/upload-url"), ("DELETE", f"/{NOBODY}")):
        assert nobody.call(method, path, json={}).status_code == 401


# -- limits --------------------------------------------------------------------------------------


def test_a_key_has_its_calls_and_is_told_when_it_has_more(
    program: Program, configure: Configure
) -> None:
    configure(max_calls_per_key_and_day=3)
    told = [program.call("GET") for _ in range(5)]
    assert [one.status_code for one in told] == [200, 200, 200, 429, 429]
    assert told[-1].json["error"]["code"] == "too_many"
    assert 3600 < int(told[-1].headers["Retry-After"]) <= 86400
    assert Program(program.client).call("GET").status_code == 200


def test_what_will_never_do_is_neither_429_nor_5xx_however_often(program: Program) -> None:
    file = program.file()
    for method, path, body in (
        ("POST", "/upload-url", {"filename": "a.exe", "content_type": "application/x-msdownload"}),
        ("POST", "/upload-url", {"filename": "a", "size": 10**9}),
        ("POST", f"/confirm/{program.offer()['key']}", None),
        ("GET", f"/download/{NOBODY}", None),
        ("GET", "/download/none", None),
        ("DELETE", f"/{NOBODY}", None),
        ("PUT", f"/{file['file_id']}", None),
        ("GET", "?limit=0", None),
    ):
        told = {program.call(method, path, json=body).status_code for _ in range(30)}
        assert len(told) == 1
        assert told <= {400, 404, 405}, (method, path)


# -- upkeep --------------------------------------------------------------------------------------


def test_what_nobody_confirms_is_removed_after_the_window(app: Flask, program: Program) -> None:
    kept, form, young = program.file(), program.offer(), program.offer()
    assert post(form, b"nobody asks") == (201, "")
    with app.app_context():
        upkeep.remove_bytes()
        row = db.session.scalar(select(SmallFile).where(SmallFile.key == form["fields"]["key"]))
        posted = db.session.get(Upload, row.posted_id)
        row.created_at -= timedelta(hours=25)
        posted.urls_until -= timedelta(hours=25)
        db.session.commit()
        looked = {one.run: one.look(lambda *_: None).count for one in dry_runs.SWEEPS}
        assert looked[small_files.delete_unconfirmed] == 1
        assert looked[upkeep.remove_bytes] == 2
        assert small_files.delete_unconfirmed() == 1
        assert upkeep.remove_bytes() == 2
        assert form["fields"]["key"] not in keys_held()
    assert program.confirm(form["key"]).status_code == 404
    assert post(young, b"1") == (201, "")
    assert program.confirm(young["key"]).status_code == 200
    assert program.fetch(kept["file_id"]).data == b"hello"


def test_a_form_that_was_told_again_just_before_the_window_ended_is_good_until_it_expires(
    app: Flask, program: Program
) -> None:
    def offer() -> Any:
        headers = {"x-api-key": program.key, "Idempotency-Key": "k" * 20}
        body = {"filename": "a.txt"}
        return program.client.post("/files/upload-url", json=body, headers=headers).json

    offer()
    with app.app_context(), transaction():
        row = db.session.scalars(select(SmallFile)).one()
        row.created_at -= timedelta(hours=settings.upload_window_in_hours)
    form = offer()
    with app.app_context():
        assert small_files.delete_unconfirmed() == 0
    assert post(form, b"in time") == (201, "")
    with app.app_context():
        with transaction():
            posted = db.session.get_one(Upload, row.posted_id)
            posted.urls_until = clock.now() - upkeep.LATE_BYTES
        assert small_files.delete_unconfirmed() == 1
    assert program.confirm(form["key"]).status_code == 404


def test_its_objects_are_known_as_ours(app: Flask, program: Program) -> None:
    program.file()
    form = program.sent(b"1", "b.txt")
    with app.app_context():
        assert form["fields"]["key"] in keys_held()
        ours = set(db.session.scalars(select(Upload.key)))
        old_before = clock.now() + timedelta(minutes=5)
        for page in storage.objects():
            assert not ours & {one.key for one in reconciling.orphans_in(page, old_before)}
        assert upkeep.find_orphans().lost_count == 0
