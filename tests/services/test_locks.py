"""Who has opened a protected transfer, and how often its password may be tried."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from app import clock
from app.config import settings
from app.db import db
from app.errors import Gone, NotFound, PasswordNeeded, PasswordWrong, TooManyTries
from app.models import AuditEvent, UnlockTries
from app.services import audit, downloads, locks, transfer_view, transfers, upkeep
from tests.factories import Sender, Sent

pytestmark = pytest.mark.usefixtures("inside", "ada")
Configure = Callable[..., None]
WAITS = [5, 10, 20, 40, 80, 160, 320, 640, 900]


@pytest.fixture
def ada():
    """Who asks: one address."""
    before = audit.actor.set(b"a" * 32)
    yield
    audit.actor.reset(before)


def protected(sender: Sender, **options) -> Sent:
    return sender.ready(password="open sesame", **options)


def tried(sent: Sent, password: str = "wrong", address: bytes = b"a" * 32) -> str | float:
    """What one try comes to: "open", "wrong", or how many seconds to wait."""
    before = audit.actor.set(address)
    try:
        return "open" if downloads.unlock(sent.slug, password) else "none"
    except PasswordWrong:
        return "wrong"
    except TooManyTries as error:
        # The machine may be slow: what is left of a wait stands for the whole of it.
        return next(wait for wait in WAITS if wait >= (error.retry_after or 0))
    finally:
        audit.actor.reset(before)


def later(sent: Sent, seconds: float) -> None:
    """As if so much time had gone by since the last try."""
    moved = UnlockTries.next_at - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    db.session.execute(
        update(UnlockTries).where(UnlockTries.transfer_id == sent.id).values(next_at=moved)
    )
    db.session.commit()


def test_s10_the_first_few_are_free_then_each_makes_the_next_wait_longer(sender: Sender) -> None:
    sent = protected(sender)
    assert [tried(sent) for _ in range(6)] == ["wrong"] * 5 + [5]
    waits = []
    for _ in range(10):
        wait = tried(sent)
        assert isinstance(wait, int)
        waits.append(wait)
        later(sent, wait)
        assert tried(sent) == "wrong"
    assert waits == [*WAITS, 900]


def test_s10_what_comes_too_early_is_not_tried_and_makes_nothing_longer(
    sender: Sender, monkeypatch
) -> None:
    sent = protected(sender)
    for _ in range(5):
        tried(sent)
    hashed: list[str] = []
    monkeypatch.setattr("app.passwords.matches", lambda *given: hashed.append("") or True)
    assert [tried(sent, "open sesame") for _ in range(20)] == [5] * 20
    assert hashed == []
    later(sent, 5)
    assert tried(sent) == "open"


def test_s10_the_right_person_is_delayed_and_never_locked_out(
    sender: Sender, configure: Configure
) -> None:
    configure(max_unlock_tries_per_hour=20)
    sent = protected(sender)
    for _ in range(5):
        tried(sent)
    assert tried(sent, "open sesame") == 5
    later(sent, 5)
    assert tried(sent, "open sesame") == "open"
    # And whoever knows it has not used up anything, for himself or others.
    assert [tried(sent, "open sesame") for _ in range(25)] == ["open"] * 25
    assert [tried(sent) for _ in range(6)] == ["wrong"] * 5 + [5]


def test_s10_another_address_has_tries_of_its_own(sender: Sender) -> None:
    sent, other = protected(sender), protected(sender)
    for _ in range(6):
        tried(sent)
    assert tried(sent, address=b"b" * 32) == "wrong"
    assert tried(other) == "wrong"


def test_s10_all_addresses_together_have_so_many_in_an_hour(
    sender: Sender, configure: Configure
) -> None:
    configure(max_unlock_tries_per_hour=20)
    sent = protected(sender)
    told = [tried(sent, address=uuid.uuid4().bytes * 2) for _ in range(40)]
    assert told[:20] == ["wrong"] * 20
    assert all(isinstance(wait, int) for wait in told[20:])
    # Refused for what others did, one has not used up a try of one's own.
    assert all(isinstance(tried(sent), int) for _ in range(10))
    later(sent, 180)
    assert tried(sent, "open sesame") == "open"
    assert tried(sent, "open sesame") == "open"
    assert tried(sent) == "wrong"
    assert isinstance(tried(sent), int)


def test_s10_after_a_day_an_address_begins_anew(sender: Sender) -> None:
    sent = protected(sender)
    for _ in range(5):
        tried(sent)
    later(sent, 3600 * 23)
    assert tried(sent) == "wrong"
    assert tried(sent) == 10
    later(sent, 10 + 3600 * 25)
    assert [tried(sent) for _ in range(6)] == ["wrong"] * 5 + [5]


def test_s10_with_one_try_at_once_the_second_waits(sender: Sender, configure: Configure) -> None:
    configure(unlock_tries_at_once=1)
    sent = protected(sender)
    assert [tried(sent), tried(sent)] == ["wrong", 5]
    later(sent, 5)
    assert [tried(sent), tried(sent)] == ["wrong", 10]


def test_another_password_ends_all_waiting_and_so_does_deleting(sender: Sender) -> None:
    sent = protected(sender)
    for _ in range(6):
        tried(sent)
    sent.call("PATCH", json={"title": "t"})
    assert tried(sent, "second") == 5
    sent.call("PATCH", json={"password": "second"})
    assert tried(sent, "second") == "open"
    count = select(func.count()).select_from(UnlockTries).where(UnlockTries.transfer_id == sent.id)
    assert db.session.scalar(count) == 1
    sent.call("DELETE")
    assert db.session.scalar(count) == 0
    old = protected(sender)
    tried(old)
    past = clock.now() - timedelta(days=30)
    old.set(expires_at=past)
    upkeep.expire_due()
    old.set(expired_at=past)
    upkeep.delete_expired()
    assert db.session.scalar(select(func.count()).select_from(UnlockTries)) == 0


def test_s36_each_try_that_was_made_is_one_row(sender: Sender) -> None:
    sent = protected(sender)
    for password in ["wrong"] * 3 + ["open sesame"] + ["wrong"] * 9:
        tried(sent, password)
    rows = select(AuditEvent.action).where(AuditEvent.transfer_id == sent.id)
    told = list(db.session.scalars(rows.order_by(AuditEvent.id)))[2:]
    assert told == ["refuse unlock"] * 3 + ["unlock"] + ["refuse unlock"] * 5


# -- what the proof is good for ------------------------------------------------------------------


def test_a_proof_opens_its_transfer_for_its_time_and_password(
    sender: Sender, configure: Configure, monkeypatch
) -> None:
    sent, other = protected(sender), protected(sender)
    proof = downloads.unlock(sent.slug, "open sesame")

    def state(one: Sent = sent, given: str | None = proof) -> str:
        return transfer_view.view(one.slug, None, given).state

    assert state() == "ready"
    assert state(other) == "password_needed"
    assert proof
    for wrong in (None, "", "open", proof[:-1], proof + "x", proof.replace("open", "Open"), "é"):
        assert state(given=wrong) == "password_needed", wrong
    now = clock.now()
    for hours, expected in ((-0.001, "ready"), (11.9, "ready"), (12, "password_needed")):
        monkeypatch.setattr(clock, "now", lambda h=hours: now + timedelta(hours=h))
        assert state() == expected
    monkeypatch.undo()
    sent.call("PATCH", json={"title": "t"})
    assert state() == "ready"
    sent.call("PATCH", json={"password": "open sesame"})
    assert state() == "password_needed"
    sent.call("PATCH", json={"password": ""})
    assert state() == "ready"


def test_s34_a_proof_survives_a_new_key_while_the_old_is_known(
    sender: Sender, configure: Configure
) -> None:
    sent = protected(sender)
    proof = downloads.unlock(sent.slug, "open sesame")
    old = settings.secret_key
    configure(secret_key="another-key-for-tests-0123456789abcd", secret_key_fallbacks=(old,))
    assert transfer_view.view(sent.slug, None, proof).state == "ready"
    configure(secret_key_fallbacks=())
    assert transfer_view.view(sent.slug, None, proof).state == "password_needed"


def test_nothing_is_told_before(sender: Sender) -> None:
    for sent in (
        protected(sender, title="Rushes", message="Hi", max_downloads=3),
        sender.create(password="open sesame", title="Rushes"),
        sender.create(password="open sesame", title="Rushes").upload().complete(),
        protected(sender, title="Rushes", max_downloads=1).set(download_count=1),
    ):
        view = transfer_view.view(sent.slug)
        assert view.state == "password_needed"
        told = (view.title, view.message, list(view.files), view.total_size, view.sent_size)
        assert told == ("", "", [], 0, 0)
        assert (view.max_downloads, view.downloads_left) == (None, None)
        for file in (uuid.UUID(sent.files[0]["id"]), uuid.uuid4()):
            with pytest.raises(PasswordNeeded):
                downloads.file_url(sent.slug, file, None)
        assert sent.row().download_count <= 1


def test_what_has_ended_asks_for_nothing_and_tells_nothing(sender: Sender) -> None:
    past = clock.now() - timedelta(seconds=1)
    expired, deleted = protected(sender, title="Rushes").set(expires_at=past), protected(sender)
    deleted.call("DELETE")
    for sent, state in ((expired, "expired"), (deleted, "deleted")):
        view = transfer_view.view(sent.slug)
        assert (view.state, view.title) == (state, "")
        with pytest.raises(Gone):
            downloads.unlock(sent.slug, "open sesame")
    with pytest.raises(NotFound):
        downloads.unlock("x" * 32, "open sesame")


def test_a_transfer_without_one_has_nothing_to_unlock_but_tries_are_counted(sender: Sender) -> None:
    """Or whoever has a link could keep our processors busy for nothing."""
    sent = sender.ready()
    assert [tried(sent) for _ in range(6)] == ["none"] * 5 + [5]
    assert transfer_view.view(sent.slug).state == "ready"


# -- setting it ---------------------------------------------------------------------------------


def test_it_is_set_changed_and_removed_and_never_told(sender: Sender) -> None:
    sent = sender.create()
    assert sent.json["has_password"] is False
    for given, expected in (
        ("pass", True),
        ("x" * 1024, True),
        (None, False),
        (" é 🐝 ", True),
        ("", False),
    ):
        answer = sent.call("PATCH", json={"password": given})
        assert answer.json["has_password"] is expected
        assert "password" not in answer.json
        assert (sent.row().password_hash or "").startswith("$argon2id$") == expected
    assert sender.create(password=None).json["has_password"] is False
    assert sender.create(password="").json["has_password"] is False
    assert sender.create(password="pass").json["has_password"] is True


def test_what_is_no_password_is_refused_and_nothing_changes(sender: Sender) -> None:
    sent = sender.create(password="pass")
    before = sent.row().password_hash
    for wrong in (
        "abc",
        "x" * 1025,
        1234,
        ["pass"],
        {"a": 1},
        True,
        "a\0bcd",
        "line\nline",
        "\ud800abc",
    ):
        answer = sent.call("PATCH", json={"title": "t", "password": wrong})
        assert answer.status_code == 400, wrong
        assert answer.json["error"]["fields"][0]["field"] == "password"
    assert sent.call("PATCH", json={"password_hash": "x"}).status_code == 400
    assert sent.row().password_hash == before


def test_the_same_create_again_is_the_same_only_with_the_same_password(sender: Sender) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}

    def create(**given):
        return sender.client.post("/transfers", json=given, headers=headers)

    first, again = create(password="pass"), create(password="pass")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json["id"] == again.json["id"]
    assert create(password="other").status_code == 422
    assert create().status_code == 422


def test_s11_what_is_stored_of_a_create_says_nothing_of_its_password(sender: Sender) -> None:
    """A plain hash of the request could be tried a billion times a second."""
    rows = []
    for key in (uuid.uuid4().hex, uuid.uuid4().hex):
        headers = {"Idempotency-Key": key}
        made = sender.client.post("/transfers", json={"password": "pass"}, headers=headers)
        row = select(text("request_hash")).select_from(text("transfers"))
        rows.append(db.session.scalar(row.where(text(f"id = '{made.json['id']}'"))))
    assert rows[0] != rows[1]


@pytest.mark.parametrize("word", ["password", "$2b$12$abc", "$argon2i$v=19$m=19456", ""])
def test_s11_the_database_refuses_what_is_no_hash(sender: Sender, word: str) -> None:
    sent = sender.create()
    with pytest.raises(Exception, match="password_is_argon2id"):
        sent.set(password_hash=word)
    db.session.rollback()


def test_locks_are_shut_for_whoever_has_no_address(sender: Sender) -> None:
    sent = protected(sender)
    before = audit.actor.set(None)
    for _ in range(5):
        with pytest.raises(PasswordWrong):
            downloads.unlock(sent.slug, "wrong")
    with pytest.raises(TooManyTries):
        locks.open_with(transfers.of_id(sent.id), "open sesame")
    audit.actor.reset(before)
