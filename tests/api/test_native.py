"""/transfers for programs: each row of its contract, by a workspace's key."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

from app import clock
from app.models import Scope
from app.services import abuse, upkeep
from tests.factories import Machine, Sender, Sent, http, put, right_body
from tests.mail import ADA, send_mail, word_of

Configure = Callable[..., None]
NOWHERE = "00000000-0000-4000-8000-000000000000"
SHOWN = {
    "id", "status", "expires_at", "download_count", "max_downloads", "created_at", "filename",
    "file_type", "file_size", "uploaded_at",
}  # fmt: skip


def in_days(days: float) -> str:
    return (clock.now() + timedelta(days=days)).isoformat()


def told(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["error"]["code"]


# -- the way of one file -------------------------------------------------------------------------


def test_the_documented_flow_of_one_file(machine: Machine) -> None:
    made = machine.native("POST", "", json={"expires_at": in_days(2), "max_downloads": 5})
    assert (made.status_code, made.json["status"]) == (201, "INIT")
    at = f"/{made.json['id']}"
    asked = {"filename": "video.mp4", "content_type": "video/mp4"}
    url = machine.native("POST", f"{at}/upload-url", json=asked)
    assert url.status_code == 200
    assert set(url.json) >= {"upload_url", "object_key"}
    query = parse_qs(urlsplit(url.json["upload_url"]).query)
    assert query["X-Amz-Expires"] == ["300"]
    assert put(url.json["upload_url"], b"film", {"Content-Type": "text/html"}).status == 403
    assert put(url.json["upload_url"], b"film", {"Content-Type": "video/mp4"}).status == 200
    done = machine.native("POST", f"{at}/complete")
    assert done.status_code == 200
    expected = {
        "status": "READY",
        "file_size": 4,
        "file_type": "video/mp4",
        "filename": "video.mp4",
    }
    assert expected.items() <= done.json.items()
    got = machine.native("GET", f"{at}/download-url")
    assert got.status_code == 200
    body = http.request("GET", got.json["download_url"])
    assert (body.status, body.data) == (200, b"film")
    assert 'filename="video.mp4"' in body.headers["Content-Disposition"]
    shown = machine.native("GET", f"{at}/")
    assert (shown.status_code, shown.json["download_count"]) == (200, 1)
    assert shown.json.keys() >= SHOWN | {"files", "link", "slug"}
    assert machine.native("DELETE", at).status_code == 204


def test_an_owner_token_does_as_well(client: FlaskClient) -> None:
    made = client.post("/transfers", json={}).json
    headers = {"Authorization": f"Bearer {made['owner_token']}"}
    at = f"/transfers/{made['id']}"
    asked = client.post(f"{at}/upload-url", json={"filename": "a"}, headers=headers)
    put(asked.json["upload_url"], b"")
    assert client.post(f"{at}/complete", headers=headers).json["file_size"] == 0
    assert client.get(f"{at}/download-url", headers=headers).status_code == 200
    assert client.get("/transfers", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 1), ({"max_downloads": 3}, 3), ({"max_downloads": None}, None), ({"files": []}, None)],
)
def test_without_files_it_is_downloaded_once_unless_said(
    machine: Machine, given: Any, expected: int | None
) -> None:
    assert machine.make(**given)["max_downloads"] == expected


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"max_downloads": 0}, "max_downloads"),
        ({"max_downloads": 2**31}, "max_downloads"),
    ],
)
def test_what_cannot_be_created_is_named(machine: Machine, given: Any, field: str) -> None:
    answer = machine.native("POST", "", json=given)
    assert told(answer) == (400, "invalid")
    assert [one["field"] for one in answer.json["error"]["fields"]] == [field]


# -- failures, in the order of check -------------------------------------------------------------


def of(machine: Machine, stage: str) -> str:
    """The id of a transfer that is so far."""
    if stage == "unknown":
        return NOWHERE
    if stage == "not a UUID":
        return "nope"
    if stage in ("made", "asked", "over before its file"):
        made = machine.make()["id"]
        if stage == "asked":
            machine.native("POST", f"/{made}/upload-url", json={"filename": "a"})
        if stage == "over before its file":
            change(machine, made, expires_at=clock.now() - timedelta(seconds=1))
        return made
    if stage in ("in parts", "over in parts"):
        made = machine.make(files=[{"path": "a", "size": 1}])["id"]
        if stage == "over in parts":
            change(machine, made, expires_at=clock.now() - timedelta(seconds=1))
        return made
    made = machine.put_one(max_downloads=1)["id"]
    if stage == "used up":
        machine.native("GET", f"/{made}/download-url")
    if stage in ("expired", "over"):
        change(machine, made, expires_at=clock.now() - timedelta(seconds=1))
    if stage == "expired":
        with machine.client.application.app_context():
            upkeep.expire_due()
    if stage == "deleted":
        machine.native("DELETE", f"/{made}")
    if stage == "blocked":
        with machine.client.application.app_context():
            abuse.quarantine(uuid.UUID(made))
    return made


def change(machine: Machine, transfer_id: str, **values: Any) -> None:
    Sent(machine.client, {"id": transfer_id}).set(**values)


ROWS = [
    ("GET", "", "unknown", None, 404, "not_found"),
    ("GET", "", "not a UUID", None, 404, "not_found"),
    ("GET", "", "deleted", None, 410, "gone"),
    ("PATCH", "", "unknown", b"{", 404, "not_found"),
    ("PATCH", "", "made", b"{", 409, "wrong_state"),
    ("PATCH", "", "asked", b"{", 409, "wrong_state"),
    ("PATCH", "", "deleted", b"{", 409, "wrong_state"),
    ("PATCH", "", "ready", {"status": "INIT"}, 400, "invalid"),
    ("PATCH", "", "ready", {"status": "DELETED"}, 400, "invalid"),
    ("PATCH", "", "ready", {"status": 5}, 400, "invalid"),
    ("PATCH", "", "ready", {"max_downloads": 0}, 400, "invalid"),
    ("PATCH", "", "used up", {"expires_at": "2020-01-01T00:00:00Z"}, 400, "invalid"),
    ("PATCH", "", "expired", {"status": "READY"}, 410, "gone"),
    ("PATCH", "", "in parts", {"status": "EXPIRED"}, 409, "wrong_state"),
    ("PATCH", "", "blocked", {"status": "EXPIRED"}, 403, "blocked"),
    ("DELETE", "", "unknown", None, 404, "not_found"),
    ("POST", "/upload-url", "unknown", {"filename": " "}, 400, "invalid"),
    ("POST", "/upload-url", "made", {}, 400, "invalid"),
    ("POST", "/upload-url", "made", {"filename": "a/b"}, 400, "invalid"),
    ("POST", "/upload-url", "made", {"filename": "a..b"}, 400, "invalid"),
    ("POST", "/upload-url", "unknown", None, 404, "not_found"),
    ("POST", "/upload-url", "over before its file", None, 410, "transfer_expired"),
    ("POST", "/upload-url", "expired", None, 410, "transfer_expired"),
    ("POST", "/upload-url", "deleted", None, 410, "gone"),
    ("POST", "/upload-url", "ready", None, 400, "wrong_state"),
    ("POST", "/upload-url", "in parts", None, 400, "wrong_state"),
    ("POST", "/complete", "unknown", None, 404, "not_found"),
    ("POST", "/complete", "over before its file", None, 410, "transfer_expired"),
    ("POST", "/complete", "expired", None, 410, "transfer_expired"),
    ("POST", "/complete", "ready", None, 400, "wrong_state"),
    ("POST", "/complete", "made", None, 400, "wrong_state"),
    ("POST", "/complete", "asked", None, 502, "upload_validation_failed"),
    ("GET", "/download-url", "unknown", None, 404, "not_found"),
    ("GET", "/download-url", "expired", None, 410, "transfer_expired"),
    ("GET", "/download-url", "over", None, 410, "transfer_expired"),
    ("GET", "/download-url", "made", None, 400, "wrong_state"),
    ("GET", "/download-url", "over before its file", None, 410, "transfer_expired"),
    ("GET", "/download-url", "in parts", None, 400, "wrong_state"),
    ("GET", "/download-url", "over in parts", None, 400, "wrong_state"),
    ("GET", "/download-url", "used up", None, 410, "transfer_limit_reached"),
    ("GET", "/download-url", "blocked", None, 403, "blocked"),
    ("POST", "/share-download", "unknown", {"emails": []}, 400, "invalid"),
    ("POST", "/share-download", "unknown", {"emails": ["nope"]}, 400, "invalid"),
    ("POST", "/share-download", "unknown", None, 404, "not_found"),
    ("POST", "/share-download", "expired", None, 410, "transfer_expired"),
    ("POST", "/share-download", "made", None, 400, "wrong_state"),
]


@pytest.mark.parametrize(("method", "path", "stage", "body", "status", "code"), ROWS)
def test_each_failure_and_which_comes_first(
    machine: Machine,
    configure: Configure,
    method: str,
    path: str,
    stage: str,
    body: Any,
    status: int,
    code: str,
) -> None:
    configure(mail_url="file:///nobody/sends/it")
    given = {"data": body} if isinstance(body, bytes) else {"json": body}
    if body is None and method == "POST":
        given = {"json": right_body(path)}
    answer = machine.native(method, f"/{of(machine, stage)}{path}", **given)
    assert told(answer) == (status, code), answer.text


def test_where_no_mail_goes_out_nothing_else_is_looked_at(machine: Machine) -> None:
    answer = machine.native("POST", f"/{NOWHERE}/share-download", json={"emails": []})
    assert told(answer) == (503, "mail_not_configured")
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize("stage", ["over", "expired"])
def test_past_its_date_it_has_expired_whether_or_not_it_was_swept(
    machine: Machine, stage: str
) -> None:
    assert machine.native("GET", f"/{of(machine, stage)}").json["status"] == "EXPIRED"


# -- PATCH ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["over", "expired"])
def test_a_new_date_revives_and_wins_over_the_status(machine: Machine, stage: str) -> None:
    at = f"/{of(machine, stage)}"
    answer = machine.native("PATCH", at, json={"expires_at": in_days(1), "status": "EXPIRED"})
    assert (answer.status_code, answer.json["status"]) == (200, "READY")


@pytest.mark.parametrize("stage", ["over", "expired"])
def test_past_its_date_only_a_new_one_brings_it_back(machine: Machine, stage: str) -> None:
    at = f"/{of(machine, stage)}"
    assert told(machine.native("PATCH", at, json={"status": "READY"})) == (410, "gone")
    changes = {"status": "READY", "expires_at": in_days(1)}
    assert machine.native("PATCH", at, json=changes).json["status"] == "READY"


def test_it_is_ended_before_its_date_and_brought_back(machine: Machine) -> None:
    at = f"/{of(machine, 'ready')}"
    for status in ("EXPIRED", "EXPIRED", "READY", "READY"):
        answer = machine.native("PATCH", at, json={"status": status})
        assert (answer.status_code, answer.json["status"]) == (200, status)
    answer = machine.native("PATCH", at, json={"max_downloads": 7, "status": "EXPIRED"})
    assert (answer.json["max_downloads"], answer.json["status"]) == (7, "EXPIRED")


NOT_ALL: dict[str, tuple[Any, int]] = {
    "fewer downloads than there were": ({"max_downloads": 1}, 400),
    "a date that is over": ({"expires_at": "2020-01-01T00:00:00Z"}, 400),
    "an address that is none": ({"title": "late", "recipients": ["cy"]}, 400),
    "another version": ({"title": "late", "expires_at": None}, 412),
}


@pytest.mark.parametrize(("body", "status"), NOT_ALL.values(), ids=NOT_ALL)
def test_of_what_cannot_all_be_changed_nothing_is(
    machine: Machine, mail: Any, body: Any, status: int
) -> None:
    """Nobody has lost the link, and nobody is mailed."""
    at = f"/{machine.put_one(max_downloads=5)['id']}"
    named = {"sender_email": ADA, "sender_token": word_of()}
    machine.native("PATCH", at, json={"recipients": ["bo@example.org"], **named})
    send_mail(machine.client.application)
    for _ in range(2):
        machine.native("GET", f"{at}/download-url")
    before = machine.native("GET", at)
    seen = '"another"' if status == 412 else before.headers["ETag"]
    changes = {"recipients": ["cy@example.org"], **body}
    answer = machine.native("PATCH", at, json=changes, headers={"If-Match": seen})
    assert answer.status_code == status, answer.text
    after = machine.native("GET", at)
    assert (after.json, after.headers["ETag"]) == (before.json, before.headers["ETag"])
    send_mail(machine.client.application)
    assert mail.to("cy@example.org") == []


def test_what_is_not_there_yet_keeps_its_title_when_it_cannot_be_ended(machine: Machine) -> None:
    at = f"/{of(machine, 'in parts')}"
    answer = machine.native("PATCH", at, json={"title": "late", "status": "EXPIRED"})
    assert told(answer) == (409, "wrong_state")
    assert machine.native("GET", at).json["title"] == ""


@pytest.mark.parametrize("revival", [{"expires_at": None}, {"status": "READY"}])
def test_what_is_brought_back_is_mailed_in_the_same_request(
    machine: Machine, mail: Any, revival: Any
) -> None:
    at = f"/{of(machine, 'ready')}"
    machine.native("PATCH", at, json={"status": "EXPIRED"})
    named = {"sender_email": ADA, "sender_token": word_of()}
    changes = {"recipients": ["bo@example.org"], **named, **revival}
    answer = machine.native("PATCH", at, json=changes)
    assert (answer.status_code, answer.json["status"]) == (200, "READY")
    send_mail(machine.client.application)
    assert len(mail.to("bo@example.org")) == 1


def test_options_of_what_is_sent_in_parts_may_change_meanwhile(machine: Machine) -> None:
    at = f"/{of(machine, 'in parts')}"
    changes = {"title": "T", "message": "M", "password": "open sesame", "max_downloads": 2}
    answer = machine.native("PATCH", at, json=changes)
    assert (answer.status_code, answer.json["title"], answer.json["has_password"]) == (
        200,
        "T",
        True,
    )


def test_a_key_sends_many_files_in_parts(machine: Machine) -> None:
    contents = {"dir/a.txt": b"1", "b": b"22"}
    files = [{"path": path, "size": len(body)} for path, body in contents.items()]
    made = machine.make(files=files)
    wanted = [{"file": file["id"], "numbers": [1]} for file in made["files"]]
    signed = machine.native("POST", f"/{made['id']}/parts", json={"wanted": wanted}).json["parts"]
    for part, body in zip(signed, contents.values(), strict=True):
        assert put(part["url"], body, part["headers"]).status == 200
    held = machine.native("GET", f"/{made['id']}/parts").json["files"]
    assert [one["held"] for one in held] == [[1], [1]]
    assert machine.native("POST", f"/{made['id']}/complete").status_code == 202
    machine.process(made["id"])
    shown = machine.native("GET", f"/{made['id']}").json
    assert (shown["status"], shown["file_size"], shown["filename"]) == ("READY", 3, "dir/a.txt")
    assert machine.native("GET", f"/{made['id']}/requests").json == {"requests": []}
    one = machine.native("GET", f"/{made['id']}/download-url?file={made['files'][1]['id']}")
    assert http.request("GET", one.json["download_url"]).data == b"22"
    # Of all of them a zip is wanted, which somebody has to make first.
    assert told(machine.native("GET", f"/{made['id']}/download-url")) == (409, "wrong_state")
    missing = f"/{made['id']}/download-url?file={NOWHERE}"
    assert told(machine.native("GET", missing)) == (404, "not_found")


# -- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "", Scope.READ),
        ("GET", "/{id}", Scope.READ),
        ("GET", "/{id}/download-url", Scope.READ),
        ("PATCH", "/{id}", Scope.WRITE),
        ("POST", "", Scope.WRITE),
        ("POST", "/{id}/upload-url", Scope.WRITE),
        ("DELETE", "/{id}", Scope.WRITE),
    ],
)
def test_a_key_does_what_its_scope_lets_it(
    machine: Machine, method: str, path: str, scope: Scope
) -> None:
    made = machine.put_one()["id"]
    for one in (Scope.READ, Scope.WRITE):
        other = Machine(machine.client, "Acme", scope=one)
        body = {"filename": "a"} if "upload-url" in path else {}
        answer = other.native(method, path.format(id=made), json=body)
        is_allowed = scope in (Scope.READ, one)
        assert (answer.status_code == 403) is not is_allowed, answer.text


def test_only_an_admin_key_has_it_cleaned_up(machine: Machine, queued: list) -> None:
    client, admin = machine.client, Machine(machine.client, "Acme", scope=Scope.ADMIN)
    for key, status in ((None, 401), (machine.key, 403), (admin.key, 200)):
        queued.clear()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = client.delete("/trigger-delete", headers=headers)
        assert answer.status_code == status
        assert bool(queued) == (status == 200)
    assert answer.json == {"message": "cleanup triggered"}
    assert [one[0] for one in queued] == [
        "upkeep.expire_due",
        "upkeep.delete_expired",
        "upkeep.delete_abandoned",
        "upkeep.remove_bytes",
    ]


def test_a_key_sees_what_its_workspaces_users_have_made(machine: Machine) -> None:
    """It may speak for any of them anyway."""
    theirs = Machine(machine.client, "Acme", "somebody").create()["id"]
    assert machine.native("GET", f"/{theirs}").status_code == 200
    assert machine.native("GET", "").json["total_count"] == 1


def test_a_wrong_key_makes_nothing_and_a_right_one_is_no_networks(
    machine: Machine, configure: Configure
) -> None:
    wrong = {"Authorization": f"Bearer {machine.key[:-1]}{'a' if machine.key[-1] != 'a' else 'b'}"}
    assert told(machine.client.post("/transfers", json={}, headers=wrong)) == (401, "unauthorized")
    configure(max_open_transfers_per_address=1)
    for _ in range(3):
        machine.make()


# -- handing out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "minutes"),
    [
        ("", 5),
        ("?expiry_minutes=1", 1),
        ("?expiry_minutes=60", 60),
        ("?expiry_minutes=10080", 10080),
        ("?expiry_minutes=10081", 5),
        ("?expiry_minutes=0", 5),
        ("?expiry_minutes=-1", 5),
        ("?expiry_minutes=x", 5),
        ("?expiry_minutes=" + "9" * 5000, 5),
    ],
)
def test_how_long_an_address_is_good(machine: Machine, query: str, minutes: int) -> None:
    made = machine.put_one(expires_at=in_days(20))
    url = machine.native("GET", f"/{made['id']}/download-url{query}").json["download_url"]
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(minutes * 60)]


@pytest.mark.parametrize(("query", "seconds"), [("", 120), ("1", 60), ("10080", 120)])
def test_s16_no_address_lasts_that_a_stranger_has_asked_for(
    sender: Sender, configure: Configure, query: str, seconds: int
) -> None:
    """It would work in spite of a quarantine, of an end and of a password."""
    configure(download_url_ttl_in_seconds=120)
    answer = sender.ready().call("GET", f"/download-url?expiry_minutes={query}")
    url = answer.json["download_url"]
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [str(seconds)]


def test_an_address_does_not_outlive_its_transfer(machine: Machine, configure: Configure) -> None:
    configure(download_url_ttl_in_seconds=300)
    made = machine.put_one(expires_at=in_days(1 / 24))
    url = machine.native("GET", f"/{made['id']}/download-url?expiry_minutes=10080")
    (seconds,) = parse_qs(urlsplit(url.json["download_url"]).query)["X-Amz-Expires"]
    assert 3500 < int(seconds) <= 3600


def test_asking_for_the_head_counts_nothing(machine: Machine) -> None:
    made = machine.put_one()
    assert machine.native("HEAD", f"/{made['id']}/download-url").status_code == 405
    assert machine.native("GET", f"/{made['id']}/download-url").status_code == 200


def test_it_is_mailed_in_the_installations_name(machine: Machine, mail: Any) -> None:
    made = machine.put_one()
    body = {"emails": ["Bo@Example.org", "bo@example.org", "cy@example.org"]}
    for _ in range(2):
        answer = machine.native("POST", f"/{made['id']}/share-download", json=body)
        assert (answer.status_code, answer.json) == (202, {"status": "accepted"})
    shown = machine.native("GET", f"/{made['id']}").json
    assert [one["email"] for one in shown["recipients"]] == ["bo@example.org", "cy@example.org"]
    assert (shown["sender_email"], shown["notifications"]) == ("bee@send.example.org", [])
    send_mail(machine.client.application)
    assert [len(mail.to(f"{one}@example.org")) for one in ("bo", "cy")] == [1, 1]


@pytest.mark.parametrize("limit", ["max_sends_per_hour", "max_recipients_per_day"])
def test_in_the_installations_name_each_workspace_has_a_share_of_its_own(
    machine: Machine, mail: Any, configure: Configure, limit: str
) -> None:
    def share(by: Machine) -> int:
        body = {"emails": ["bo@example.org"]}
        answer = by.native("POST", f"/{by.put_one()['id']}/share-download", json=body)
        return int(answer.status_code)

    configure(**{limit: 2})
    other = Machine(machine.client, workspace="Other")
    assert [share(machine) for _ in range(3)] == [202, 202, 429]
    assert [share(other) for _ in range(3)] == [202, 202, 429]


def test_without_a_workspace_the_sender_is_confirmed_first(sender: Sender, mail: Any) -> None:
    sent = sender.ready()
    answer = sent.call("POST", "/share-download", json={"emails": ["bo@example.org"]})
    assert told(answer) == (400, "wrong_state")
    assert sent.show()["recipients"] == []
