"""API keys that people make for themselves: who makes them, what they open, and when they end."""

import itertools
import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from app import cli
from app.config import settings
from app.db import db, transaction
from app.models import (
    ApiKey,
    Asset,
    AuditEvent,
    Scope,
    SmallFile,
    State,
    Transfer,
    Upload,
    UploadState,
    Workspace,
)
from app.services import accounts, file_requests, own_keys, upload_sessions, workspace_login
from tests.factories import Machine, Program, Sent
from tests.keeper import Keeper
from tests.lab.mailserver import MailServer
from tests.mail import ADA, send_mail, states, word_of
from tests.pages.test_mine import COOKIE, EVE, Person, ada, code_in, eve, grow_old
from tests.threats.test_strangers import give

__all__ = ["ada", "eve"]  # fixtures
Configure = Callable[..., None]
AT = "/mine/keys"
FILES = {"files": [{"path": "a", "size": 1}]}
STUDIO = "bo@studio.example"
NEWS = {"sent", "downloaded", "nobody_downloaded", "expires_soon", "somebody_asks", "undeliverable"}
NO = (403, "sender_not_allowed")


@pytest.fixture(autouse=True)
def only_some(configure: Configure, ada: Person) -> None:
    """Ada and everybody at the studio may send."""
    configure(senders=(ADA, "@studio.example"))


@pytest.fixture
def key(ada: Person) -> str:
    """One that Ada has made, for writing."""
    ada.sign_in()
    return key_in(make(ada))


@pytest.fixture
def script(client: FlaskClient, key: str) -> Machine:
    """A program with that key."""
    return Machine(client, key=key)


def page_of(person: Person) -> str:
    answer = person.client.get(AT)
    assert answer.status_code == 200
    return answer.text


def make(person: Person, name: str = "Invoice run", **fields: str) -> Any:
    """The answer to the form."""
    form = {"csrf_token": person.token, "once": str(uuid.uuid4()), "name": name, "scope": "write"}
    return person.client.post(AT, data=form | fields)


def key_in(answer: Any) -> str:
    assert answer.status_code == 201, answer.text
    (found,) = set(re.findall(r"bee_[a-z0-9]{12}_[\w-]{43}", answer.text))
    return found


def ids(app: Flask) -> list[uuid.UUID]:
    with app.app_context():
        return list(db.session.scalars(select(ApiKey.id).order_by(ApiKey.created_at)))


def revoke(person: Person, key_id: uuid.UUID) -> Any:
    return person.client.post(f"{AT}/{key_id}/revoke", data={"csrf_token": person.token})


def count(app: Flask, kind: type[Any]) -> int:
    with app.app_context():
        return db.session.scalar(select(func.count()).select_from(kind)) or 0


def status(client: FlaskClient, key: str) -> int:
    return client.get("/transfers", headers={"x-api-key": key}).status_code


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, (answer.json or {}).get("error", {}).get("code", "")


def actions(app: Flask) -> list[str]:
    with app.app_context():
        rows = select(AuditEvent.action).order_by(AuditEvent.id)
        return [one for one in db.session.scalars(rows) if "key" in one or "workspace" in one]


# -- making one ------------------------------------------------------------------------------------


def test_a_key_is_shown_once_listed_and_works_until_it_is_revoked(
    app: Flask, ada: Person, client: FlaskClient
) -> None:
    ada.sign_in()
    assert f'<a href="{AT}">API keys</a>' in ada.get().text
    page = ada.client.get(AT)
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    for words in ("also after you have signed out", 'content="noindex"', ADA, "Make a key"):
        assert words in page.text
    assert "Your keys" not in page.text
    made = make(ada, "  Invoice run ")
    text = key_in(made)
    assert made.headers["Cache-Control"] == "no-store"
    assert 'data-copy="key"' in made.text
    assert "Set-Cookie" not in made.headers
    with ada.client.session_transaction() as session:
        assert text not in str(dict(session))
    listed = page_of(ada)
    assert text not in listed
    for words in (
        f"<code>{text[:16]}</code>",
        "Invoice run",
        "never used",
        '#i-done"/></svg>Works<',
    ):
        assert words in listed
    assert status(client, text) == 200
    assert "last used" in page_of(ada)
    # Whatever becomes of the browser.
    ada.post("leave", everywhere="1")
    assert status(client, text) == 200
    ada.sign_in()
    assert revoke(ada, ids(app)[0]).location == AT
    assert status(client, text) == 401
    assert revoke(ada, ids(app)[0]).status_code == 303
    listed = page_of(ada)
    assert '#i-remove"/></svg>Revoked<' in listed
    assert "/revoke" not in listed
    assert actions(app) == ["create workspace", "issue key", "revoke key"]


def test_a_form_that_is_sent_twice_makes_one_key_and_says_so(app: Flask, ada: Person) -> None:
    ada.sign_in()
    once = str(uuid.uuid4())
    text = key_in(make(ada, once=once))
    again = make(ada, once=once)
    assert again.status_code == 409
    assert "This form has already made a key" in again.text
    assert text not in again.text
    assert len(ids(app)) == 1
    assert once not in page_of(ada).partition("Your keys")[0]


def test_the_last_key_that_fits_can_be_reloaded_too(app: Flask, ada: Person) -> None:
    ada.sign_in()
    for _ in range(own_keys.MOST_LIVE - 1):
        key_in(make(ada))
    once = str(uuid.uuid4())
    key_in(make(ada, once=once))
    assert make(ada, once=once).status_code == 409
    refused = make(ada, "One more")
    assert refused.status_code == 422
    assert "This is too many: revoke one of your 20 keys." in refused.text
    assert 'value="One more"' in refused.text
    revoke(ada, ids(app)[0])
    key_in(make(ada))


def test_revoking_makes_no_room_for_any_number_of_others_on_the_same_day(
    app: Flask, ada: Person, eve: Person, configure: Configure
) -> None:
    ada.sign_in()
    key_in(make(ada))
    with app.app_context():
        for _ in range(own_keys.MOST_A_DAY - 1):
            made = own_keys.make(uuid.uuid4(), ADA, name="x", scope=Scope.READ)
            assert made
            own_keys.revoke(ADA, made.row.id)
    refused = make(ada)
    assert (refused.status_code, "made 50 keys in one day" in refused.text) == (422, True)
    # Live ones stay in the list, however many others are newer.
    assert '#i-done"/></svg>Works<' in page_of(ada)
    assert page_of(ada).count('class="person"') == own_keys.MOST_LISTED
    configure(senders=(ADA, EVE))
    eve.sign_in(EVE)
    key_in(make(eve))
    with app.app_context(), transaction():
        earlier = ApiKey.created_at - timedelta(days=1)
        db.session.execute(update(ApiKey).values(created_at=earlier))
    key_in(make(ada))


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": " \u3000"},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"scope": "admin"},
        {"scope": ""},
        {"once": "x"},
    ],
)
def test_what_cannot_be_used_makes_no_key(app: Flask, ada: Person, fields: dict[str, str]) -> None:
    ada.sign_in()
    answer = make(ada, **{"name": "Kept <words>"} | fields)
    assert answer.status_code == 422
    if "once" not in fields:
        assert 'aria-invalid="true"' in answer.text
    if "name" not in fields:
        assert "Kept &lt;words&gt;" in answer.text
    assert (count(app, ApiKey), count(app, Workspace)) == (0, 0)


def test_a_hostile_name_is_only_shown(app: Flask, ada: Person) -> None:
    ada.sign_in()
    name = '"><script>alert(1)</script>{{ 7 * 7 }}'
    for page in (make(ada, name).text, page_of(ada)):
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page


def test_a_key_may_look_or_write_as_was_chosen_and_never_more(
    app: Flask, ada: Person, client: FlaskClient, key: str
) -> None:
    reader = {"x-api-key": key_in(make(ada, scope="read"))}
    form = {"csrf_token": ada.token, "once": str(uuid.uuid4()), "name": "x"}
    least = {"x-api-key": key_in(ada.client.post(AT, data=form))}
    for headers in (reader, least):
        assert client.get("/transfers", headers=headers).status_code == 200
        assert client.post("/transfers", json=FILES, headers=headers).status_code == 403
    for method, path in (("GET", "/webhooks"), ("DELETE", "/trigger-delete")):
        answer = client.open(path, method=method, headers={"x-api-key": key})
        assert answer.status_code == 403
    with app.app_context(), pytest.raises(accounts.NotAllowed):
        workspace_login.enter(key)
    with app.app_context(), pytest.raises(accounts.Invalid):
        own_keys.make(uuid.uuid4(), ADA, name="x", scope=Scope.ADMIN)


# -- signing in again ------------------------------------------------------------------------------


def test_making_one_needs_a_sign_in_of_the_last_hour_and_revoking_does_not(
    app: Flask, ada: Person, key: str, mail: MailServer, client: FlaskClient
) -> None:
    grow_old(app, minutes=59)
    assert "Make a key" in page_of(ada)
    grow_old(app, minutes=2)
    page = page_of(ada)
    assert "within the last hour" in page
    assert "Make a key" not in page
    assert "Invoice run" in page
    refused = make(ada)
    assert (refused.status_code, refused.location, len(ids(app))) == (303, AT, 1)
    revoke(ada, ids(app)[0])
    assert status(client, key) == 401
    word = ada.word
    asked = ada.client.post(f"{AT}/again", data={"csrf_token": ada.token})
    assert (asked.status_code, asked.location) == (303, "/mine")
    send_mail(app)
    assert mail.caught[-1].to == ADA
    came = ada.post("enter", code=code_in(mail))
    assert (came.status_code, came.location) == (303, AT)
    assert "Make a key" in page_of(ada)
    # The former sign-in has ended, so that a copied cookie is not renewed with it.
    ada.client.set_cookie(COOKIE, word)
    assert not ada.is_in


# -- who has some ----------------------------------------------------------------------------------


def test_only_whoever_is_signed_in_has_keys_and_only_their_own(
    app: Flask, ada: Person, eve: Person, key: str, client: FlaskClient, configure: Configure
) -> None:
    (key_id,) = ids(app)
    answers = [eve.client.get(AT), make(eve)]
    answers.append(eve.client.post(f"{AT}/again", data={"csrf_token": eve.token}))
    assert [(one.status_code, one.location) for one in answers[:2]] == [(303, "/mine")] * 2
    assert (answers[2].status_code, answers[2].location) == (303, AT)
    assert revoke(eve, key_id).status_code == 303
    configure(senders=(ADA, EVE))
    eve.sign_in(EVE)
    assert "Invoice run" not in page_of(eve)
    for unknown in (key_id, uuid.uuid4()):
        assert revoke(eve, unknown).status_code == 404
    # Another's id makes nothing, and shows nothing of it.
    assert make(eve, once=str(key_id)).status_code == 409
    assert "Invoice run" not in page_of(eve)
    assert status(client, key) == 200
    assert len(ids(app)) == 1


@pytest.mark.parametrize("path", ["", "/again", f"/{uuid.UUID(int=1)}/revoke"])
def test_another_site_makes_and_revokes_none(ada: Person, path: str) -> None:
    ada.sign_in()
    form = {"once": str(uuid.uuid4()), "name": "Forged", "scope": "write"}
    assert ada.client.post(AT + path, data=form).status_code == 400
    forged = {"csrf_token": ada.token, **form}
    elsewhere = {"Origin": "https://evil.example"}
    assert ada.client.post(AT + path, data=forged, headers=elsewhere).status_code == 400
    assert ada.is_in
    assert "Forged" not in page_of(ada)


def test_where_everybody_may_send_there_are_none_and_none_is_good(
    ada: Person, key: str, client: FlaskClient, configure: Configure
) -> None:
    """Strangers must not get what a key gives, nor anybody keep one that cannot be revoked."""
    configure(senders=())
    assert AT not in ada.get().text
    assert {ada.client.get(AT).status_code, make(ada).status_code} == {404}
    assert status(client, key) == 401
    configure(senders=(ADA,), mail_url="")
    assert ada.client.get(AT).status_code == 404
    assert status(client, key) == 401


def test_whoever_may_not_send_makes_none_and_still_revokes_theirs(
    app: Flask, ada: Person, eve: Person, key: str, configure: Configure
) -> None:
    eve.sign_in(EVE)
    assert AT not in eve.get().text
    page = page_of(eve)
    assert "You cannot make API keys here" in page
    assert "keys below" not in page
    refused = make(eve)
    assert (refused.status_code, count(app, Workspace)) == (403, 1)
    configure(senders=("@studio.example",))
    assert f'<a href="{AT}">API keys</a>' in ada.get().text
    page = page_of(ada)
    for words in ("The keys below are refused", "Invoice run", '#i-alert"/></svg>Refused<'):
        assert words in page
    for words in ("Make a key", "within the last hour"):
        assert words not in page
    assert revoke(ada, ids(app)[0]).status_code == 303
    assert '#i-remove"/></svg>Revoked<' in page_of(ada)


# -- when one is good ------------------------------------------------------------------------------


def test_a_key_is_refused_as_soon_as_its_owner_may_not_send_any_more(
    client: FlaskClient, key: str, script: Machine, configure: Configure
) -> None:
    """With every token and session that was made with it, and in every dialect."""
    made = script.make(**FILES)
    headers = {"x-api-key": key}
    session = client.post("/s3/sessions", json={"expiresIn": 600}, headers=headers).json["url"]
    file = {"filename": "a.mov", "type": "video/mp4"}

    def answers() -> list[int]:
        return [
            status(client, key),
            script.native("GET", f"/{made['id']}").status_code,
            client.get("/files", headers=headers).status_code,
            client.get("/s3/workspace", headers=headers).status_code,
            client.post(f"{session}/s3/multipart", json=file).status_code,
            script.call("GET", f"/transfers/{made['id']}").status_code,
            client.post("/v2/authorize", json={}, headers=headers).status_code,
        ]

    assert answers() == [200] * 7
    configure(senders=("@studio.example",))
    assert answers() == [401] * 5 + [403] * 2
    configure(senders=("@example.org",))
    assert answers() == [200] * 7


def test_a_workspace_that_the_operator_has_named_like_the_address_is_another(
    app: Flask, ada: Person, client: FlaskClient
) -> None:
    with app.app_context():
        theirs = accounts.issue_key(ADA, "render farm", Scope.WRITE)
    operators = Machine(client, key=theirs.text)
    operators.make(title="Secret", **FILES)
    ada.sign_in()
    assert "render farm" not in page_of(ada)
    own = Machine(client, key=key_in(make(ada)))
    assert own.native("GET", "").json["total_count"] == 0
    with app.app_context():
        later = accounts.issue_key(ADA, "b", Scope.READ).row.workspace_id
        assert later == theirs.row.workspace_id
        # Nor does a key of the operator's get into hers by any name.
        name = db.session.scalars(select(Workspace.name).where(Workspace.email == ADA)).one()
        with pytest.raises(accounts.Invalid, match="person's own"):
            accounts.issue_key(name, "c", Scope.ADMIN)


def test_the_operator_sees_whose_keys_there_are_and_revokes_them(
    app: Flask, key: str, client: FlaskClient, configure: Configure
) -> None:
    runner = app.test_cli_runner()
    told = runner.invoke(args=["keys", "list"])
    assert told.exit_code == 0, (told.output, told.exception)
    (line,) = told.stdout.splitlines()
    assert line.startswith(f"{key[:16]}  write  own key of {ADA}: Invoice run  never used")
    assert "refused" not in line
    configure(senders=("@studio.example",))
    assert runner.invoke(args=["keys", "list"]).stdout.endswith("  refused\n")
    configure(senders=(ADA,))
    assert runner.invoke(args=["keys", "revoke", key[:16]]).stdout == "Revoked.\n"
    assert status(client, key) == 401
    assert "refused" not in runner.invoke(args=["keys", "list"]).stdout


def test_the_operator_deletes_what_a_person_keeps_which_no_key_of_the_operators_can(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S31: assets and small files have no date, and cannot be quarantined."""
    hers, others = Keeper(client, "Hers"), Keeper(client, "Acme")
    small, other = Program(client, "Hers"), Program(client, "Acme")
    give(app, "Hers", ADA)
    hers.keep(fileName="kept.txt")
    started = hers.start()
    parts = hers.send(started, b"half")
    kept, files = others.keep()["assetId"], [one.file()["file_id"] for one in (small, other)]
    small.offer()
    sent = Machine(client, key=hers.key).put_one()
    runner = app.test_cli_runner()
    assert runner.invoke(args=["keys", "clear", ADA], input="n\n").exit_code == 1
    assert hers.names() == ["kept.txt"]
    with app.app_context():
        session = upload_sessions.open_session(accounts.authenticate(hers.key), 600)
    # Each look at the clock is ten seconds after the one before.
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=itertools.count(0, 10).__next__))
    done = runner.invoke(args=["keys", "clear", "Ada@Example.org", "--yes"])
    assert done.stdout == "Revoked 2 keys; deleted 2 assets and 2 small files.\n", done.exception
    kept_of_each = ("1 assets", "2 assets", "1 small files", "2 small files")
    assert done.stderr.splitlines() == [f"Deleting: {count}" for count in kept_of_each]
    assert {status(client, one.key) for one in (hers, small)} == {401}
    assert client.get(f"/s3/as/{session}/s3/params").status_code == 401
    assert hers.complete(started, parts).status_code == 401
    assert others.fetch(kept) == b"hello"
    assert other.fetch(files[1]).data == b"hello"
    assert client.get(f"/d/{sent['slug']}").status_code == 200
    assert (count(app, Asset), count(app, SmallFile)) == (1, 1)
    with app.app_context():
        states = select(Upload.state).where(Upload.key.contains(hers.workspace))
        assert set(db.session.scalars(states)) == {UploadState.ABORTED}
    assert actions(app).count("revoke key") == 2
    again = runner.invoke(args=["keys", "clear", ADA, "--yes"])
    assert again.output == "Revoked 0 keys; deleted 0 assets and 0 small files.\n"
    for nobodys, said in ((EVE, f"{EVE} has made no keys."), ("x", "is not an e-mail address")):
        refused = runner.invoke(args=["keys", "clear", nobodys, "--yes"])
        assert (refused.exit_code, said in refused.output) == (1, True)


# -- what is sent with one -------------------------------------------------------------------------


def test_what_a_key_sends_is_its_owners_and_no_news_of_it_is_mailed(
    app: Flask, ada: Person, script: Machine, mail: MailServer
) -> None:
    native = script.put_one(title="By a script")
    by_v2 = script.ready({"v2.txt": b"1"})
    board = script.board()
    body = [{"name": "on-a-board", "size": 1}]
    assert script.call("POST", f"/boards/{board['id']}/files", json=body).status_code == 201
    for made in (native, by_v2):
        shown = script.native("GET", f"/{made['id']}").json
        assert (shown["sender_email"], shown["sender_confirmed"]) == (ADA, True)
        assert shown["notifications"] == []
    listed = ada.get().text
    for title in ("By a script", "v2.txt"):
        assert title in listed
    assert "on-a-board" not in listed
    manage = re.search(r'href="(/m/[^"]+)" title="By a script"', listed)
    assert manage
    assert ada.client.get(manage[1]).status_code == 200
    before = len(mail.caught)
    send_mail(app)
    assert mail.caught[before:] == []


def test_a_request_that_names_its_sender_is_mailed_news_and_may_prove_another(
    app: Flask, script: Machine, client: FlaskClient
) -> None:
    def sender_of(**given: Any) -> tuple[str, bool, set[str]]:
        made = script.make(**FILES, **given)
        return made["sender_email"], made["sender_confirmed"], set(made["notifications"])

    # The key is a proof of its owner's address.
    assert sender_of(sender_email="Ada@Example.org") == (ADA, True, NEWS)
    for nobody in ("", None):
        assert sender_of(sender_email=nobody) == (ADA, True, set())
    assert sender_of(notifications=["downloaded"]) == (ADA, True, {"downloaded"})
    proof = {"sender_email": STUDIO, "sender_token": word_of(STUDIO)}
    assert sender_of(**proof) == (STUDIO, True, NEWS)
    for wrong in ({}, {"sender_token": word_of(ADA)}, {"sender_token": "x"}):
        answer = script.native("POST", "", json=FILES | {"sender_email": STUDIO} | wrong)
        assert refusal(answer) == (400, "invalid")
        assert [one["field"] for one in answer.json["error"]["fields"]] == ["sender_token"]
    no_address = script.native("POST", "", json=FILES | {"sender_email": "x"})
    assert [one["field"] for one in no_address.json["error"]["fields"]] == ["sender_email"]


def test_the_same_request_again_is_the_same_transfer(
    app: Flask, ada: Person, script: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def post(**given: Any) -> Any:
        headers = {"Idempotency-Key": "k" * 20}
        return script.native("POST", "", json=FILES | given, headers=headers)

    first = post(title="a")
    assert first.status_code == 201
    # What proves the address is not the same a second later.
    later = word_of()
    monkeypatch.setattr("app.services.senders.word_of", lambda email: later)
    again = post(title="a")
    assert (again.json["id"], again.json["owner_token"]) == (
        first.json["id"],
        first.json["owner_token"],
    )
    assert refusal(post(title="b")) == (422, "idempotency_key_reused")
    assert refusal(post(title="a", sender_email=ADA)) == (422, "idempotency_key_reused")
    # Her other keys are as good for it.
    script.key = key_in(make(ada))
    assert post(title="a").json["id"] == first.json["id"]
    assert count(app, Transfer) == 1


def test_mail_to_recipients_is_in_its_owners_name(
    app: Flask, script: Machine, mail: MailServer
) -> None:
    made = script.put_one(recipients=["cy@example.org"])
    send_mail(app)
    (told,) = mail.to("cy@example.org")
    assert ADA in told.body("plain")
    assert states(Sent(script.client, made | {"owner_token": script.key})) == {
        "cy@example.org": "sent"
    }


def test_the_installation_never_speaks_for_a_persons_key(
    app: Flask, script: Machine, mail: MailServer
) -> None:
    made = script.put_one()
    script.native("PATCH", f"/{made['id']}", json={"sender_email": None})
    shared = script.native("POST", f"/{made['id']}/share-download", json={"emails": [STUDIO]})
    assert shared.status_code == 202
    shown = script.native("GET", f"/{made['id']}").json
    assert (shown["sender_email"], shown["sender_confirmed"], shown["notifications"]) == (
        ADA,
        True,
        [],
    )
    send_mail(app)
    assert ADA in mail.to(STUDIO)[0].body("plain")
    with app.app_context():
        own = select(Transfer).where(Transfer.sender_email == settings.own_email)
        assert db.session.scalars(own).all() == []


def seconds_of(script: Machine, transfer_id: str) -> int:
    asked = script.native("GET", f"/{transfer_id}/download-url?expiry_minutes=600")
    found = re.search(r"X-Amz-Expires=(\d+)", asked.json["download_url"])
    assert found
    return int(found[1])


def test_a_download_url_lives_no_longer_than_those_of_pages(
    script: Machine, client: FlaskClient
) -> None:
    """It outlives the transfer's block, so it is for programs that the operator vouches for."""
    own = script.put_one(max_downloads=None)
    operators = Machine(client, "Acme")
    theirs = operators.put_one(max_downloads=None)
    assert seconds_of(script, own["id"]) == settings.download_url_ttl_in_seconds
    assert seconds_of(operators, theirs["id"]) > settings.download_url_ttl_in_seconds


def test_nor_does_that_of_an_asset(app: Flask, client: FlaskClient) -> None:
    """It works although the key was revoked meanwhile, or its owner may not send any more."""
    keeper = Keeper(client)
    asset = keeper.keep(b"hello")["assetId"]
    asked = {"assetId": asset, "expiresIn": 604_800}
    assert keeper.get("/download-url", **asked).json["expiresIn"] == 604_800
    give(app, "Acme", STUDIO)
    told = keeper.get("/download-url", **asked).json
    assert told["expiresIn"] == settings.download_url_ttl_in_seconds
    assert f"X-Amz-Expires={told['expiresIn']}&" in told["url"]
    assert keeper.get("/download-url", assetId=asset, expiresIn=5).json["expiresIn"] == 5


def test_who_may_not_send_any_more_goes_on_by_no_owner_token(
    app: Flask, client: FlaskClient, script: Machine, configure: Configure, mail: MailServer
) -> None:
    made = script.native("POST", "", json={"files": [{"path": "a.txt", "size": 5}]}).json
    sent = Sent(client, made, {"a.txt": b"hello"}).upload().complete().process()
    assert sent.row().state is State.READY
    more = {"files": [{"path": "1", "size": 1}]}
    mailed = {"recipients": ["cy@example.org"]}
    # As long as she may, the token of what she sent is enough.
    assert sent.call("POST", "/files", json=more).status_code == 201
    assert sent.call("DELETE", "/batch").status_code == 204
    configure(senders=("@studio.example",))
    assert refusal(sent.call("POST", "/files", json=more)) == NO
    assert refusal(sent.call("PATCH", json=mailed)) == NO
    share = sent.call("POST", "/share-download", json={"emails": ["cy@example.org"]})
    assert refusal(share) == NO
    # Nor by taking her name off it.
    assert sent.call("PATCH", json={"sender_email": None}).status_code == 200
    assert refusal(sent.call("POST", "/files", json=more)) == NO
    assert sent.call("POST", "/share-download", json={"emails": [STUDIO]}).status_code == 400
    proof = {"sender_email": EVE, "sender_token": word_of(EVE)}
    assert refusal(sent.call("PATCH", json=mailed | proof)) == NO
    send_mail(app)
    assert mail.to("cy@example.org") == mail.to(STUDIO) == []
    # What was begun is still hers to manage and delete.
    assert sent.call("DELETE").status_code == 204


def test_what_a_key_sends_to_a_file_request_is_its_owners_too(
    app: Flask, ada: Person, script: Machine, mail: MailServer
) -> None:
    with app.app_context():
        asked = uuid.uuid4()
        file_requests.make(asked, STUDIO, title="Rushes", message="", days=1)
        slug = file_requests.one_of(STUDIO, asked).slug
    made = script.put_one(file_request=slug, title="For Bo")
    assert made["sender_email"] == ADA
    assert "For Bo" in ada.get().text
    send_mail(app)
    assert ADA in mail.to(STUDIO)[0].body("plain")
