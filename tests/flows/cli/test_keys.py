"""API keys that `beeline` takes from the environment: what they send, and who never gets to see them."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from app.models import Scope
from app.services import accounts, own_keys
from tests.flows.cli.shell import Shell, heard, names
from tests.flows.cli.test_failures import Cut
from tests.lab.s3faults import Answer, S3Faults
from tests.lab.truth import Truth
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits
CY = "cy@studio.example"
STUDIO = "@studio.example"
OF_OPERATOR, OF_CY, READING = "the operator's", "Cy's", "the operator's, for reading"
STORED = "SELECT sender_email, coalesce(email, name), state FROM transfers JOIN workspaces w ON w.id = workspace_id"


@pytest.fixture(scope="module")
def strict(web: LoggedStack) -> Iterator[S3Faults]:
    """A web process that takes files only from some, and what stands before it."""
    web.start("web.2", SENDERS=STUDIO)
    with S3Faults(web.addresses()[-1]) as before:
        yield before
    web.kill("web.2")


@pytest.fixture
def issue(app: Flask, configure: Callable[..., None]) -> Callable[[str], str]:
    """Makes keys: of the operator's, or of somebody's own."""

    def make(whose: str) -> str:
        configure(senders=(STUDIO,), mail_url="smtp://127.0.0.1")
        with app.app_context():
            if whose != OF_CY:
                scope = Scope.READ if whose == READING else Scope.WRITE
                return accounts.issue_key("Acme", "a test's", scope).text
            made = own_keys.make(uuid.uuid4(), CY, name="a test's", scope=Scope.WRITE)
            assert made is not None
            return made.text

    return make


@pytest.fixture
def revoke(app: Flask) -> Callable[[str], None]:
    def revoke(key: str) -> None:
        with app.app_context():
            accounts.revoke_key(accounts.prefix_of(key) or "")

    return revoke


@pytest.fixture
def closed(shell: Shell, strict: S3Faults) -> Iterator[Shell]:
    """A terminal from which files are sent there."""
    shell.environ["BEELINE_SERVER"] = strict.url
    yield shell
    strict.heal()


@pytest.mark.parametrize(("whose", "stored"), [(OF_OPERATOR, (None, "Acme")), (OF_CY, (CY, CY))])
def test_what_is_sent_with_a_key_is_the_keys(
    closed: Shell,
    strict: S3Faults,
    storage: S3Faults,
    issue: Callable[[str], str],
    environ: dict[str, str],
    whose: str,
    stored: tuple[str | None, str],
) -> None:
    """Where only some may send. It is shown to our own server and only once, and kept nowhere."""
    words, key = closed.write({"a": b"1", "b.bin": os.urandom(9_000_000)}), issue(whose)
    assert "--from you@example.org" in closed.ask("send", *words, code=2)["error"]["message"]
    asked, put = heard(strict), heard(storage)
    said, told = closed.run("send", *words, BEELINE_API_KEY=f"{key}\n")
    assert Truth(environ).rows(STORED) == [(*stored, "READY")]
    assert [one.operation for one in asked if "x-api-key" in names(one)] == ["POST "]
    assert all(dict(one.headers).get("Authorization") for one in asked[1:])
    assert len([one for one in put if one.method == "PUT"]) == 3
    assert not [one for one in put if names(one) & {"authorization", "x-api-key", "cookie"}]
    kept = [path for path in (closed.home / ".local").rglob("*") if path.is_file()]
    assert kept
    assert not any(key.encode() in path.read_bytes() for path in kept)
    assert key not in said + told
    closed.run("get", said.strip(), "-o", "got", BEELINE_API_KEY=key)
    closed.run("rm", said.strip(), BEELINE_API_KEY=key)
    assert len([one for one in asked if "x-api-key" in names(one)]) == 1


def test_what_was_begun_with_a_key_is_finished_though_it_is_revoked(
    closed: Shell, storage: S3Faults, issue: Callable[[str], str], revoke: Callable[[str], None]
) -> None:
    words, key = closed.write({"film.mov": os.urandom(17_000_000)}), issue(OF_CY)
    cut = Cut(storage, through=1)
    running = closed.begin("send", *words, "--parallel", "1", BEELINE_API_KEY=key)
    cut.wait_until_seen(2)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    cut.open()
    revoke(key)
    assert closed.ask("resume", BEELINE_API_KEY=key)["status"] == "READY"


@pytest.mark.parametrize("wrong", ["revoked", "made up", "for reading"])
def test_a_key_that_is_not_good_is_told_in_one_line(
    closed: Shell, issue: Callable[[str], str], revoke: Callable[[str], None], wrong: str
) -> None:
    key, expected = issue(READING if wrong == "for reading" else OF_CY), "is wrong or revoked"
    if wrong == "revoked":
        revoke(key)
    elif wrong == "made up":
        key = f"{key[:-4]}aaaa"
    else:
        expected = "This API key may only read. Sending takes one that may write"
    said, told = closed.run("send", *closed.write({"a": b"1"}), code=1, BEELINE_API_KEY=key)
    assert (said, told.count("\n")) == ("", 1)
    assert expected in told
    assert "BEELINE_API_KEY" in told
    assert key not in told


@pytest.mark.parametrize("given", ["bee_a\nX-Evil: 1", "bee_ä☕", "bee_a b", "\x1b[31mbee"])
def test_what_cannot_be_a_key_is_not_shown_either(closed: Shell, given: str) -> None:
    said, told = closed.run("send", *closed.write({"a": b"1"}), code=2, BEELINE_API_KEY=given)
    assert (said, told) == ("", "beeline: What BEELINE_API_KEY holds is not an API key.\n")


def test_a_key_goes_to_no_other_server(
    closed: Shell, strict: S3Faults, issue: Callable[[str], str], web: LoggedStack
) -> None:
    words, key = closed.write({"a": b"1"}), issue(OF_OPERATOR)
    with S3Faults(web.url) as other:
        came = heard(other)
        told = closed.ask("send", *words, "--server", other.url, code=2, BEELINE_API_KEY=key)
        assert told["error"]["message"].startswith(
            f"BEELINE_API_KEY is for {strict.url}, and is not sent to {other.url}."
        )
        assert came == []
        link = f"{other.url}/r/{'x' * 32}"
        closed.ask("send", *words, "--request", link, code=1, BEELINE_API_KEY=key)
        closed.ask("get", f"{other.url}/d/{'x' * 32}", code=5, BEELINE_API_KEY=key)
        assert [one.path for one in came] == ["/transfers", f"/d/{'x' * 32}.json"]
        away = Answer(307, (("Location", f"{other.url}/transfers"),), b"")
        strict.plan("POST ", lambda request, forward: away)
        told = closed.ask("send", *words, code=2, BEELINE_API_KEY=key)
        assert f"redirects to {other.url}" in told["error"]["message"]
        assert len(came) == 2
        assert not [one for one in came if "x-api-key" in names(one)]
        # Unless it is the one that is meant, however it is named.
        strict.heal()
        same = strict.url.removeprefix("http://")
        closed.ask("send", *words, "--server", f"HTTP://{same}/", BEELINE_API_KEY=key)


def test_a_key_that_others_can_read_on_its_way_is_sent_only_if_that_is_allowed(
    closed: Shell, strict: S3Faults
) -> None:
    words, came = closed.write({"a": b"1"}), heard(strict)
    # The same computer, by an address that does not say so, and for which it is no server.
    there = strict.url.replace("127.0.0.1", "0.0.0.0")
    given = {"BEELINE_API_KEY": "bee_a", "BEELINE_SERVER": there}
    _, told = closed.run("send", *words, code=2, **given)
    assert told.endswith("To allow that, add --allow-http\n")
    assert came == []
    _, told = closed.run("send", *words, "--allow-http", code=1, **given)
    assert "Without TLS, others can read the API key on its way to 0.0.0.0." in told
    assert [dict(one.headers)["x-api-key"] for one in came] == ["bee_a"]


def test_whose_key_it_is_mails_without_saying_who_that_is(
    closed: Shell, issue: Callable[[str], str], environ: dict[str, str]
) -> None:
    """A key of the operator's does not say it: then it takes what it takes without a key."""
    words = (*closed.write({"a": b"1"}), "--to", "bob@example.org")
    closed.ask("send", *words, BEELINE_API_KEY=issue(OF_CY), BEELINE_FROM="eve@example.org")
    assert Truth(environ).rows(STORED) == [(CY, CY, "READY")]
    mailed = "SELECT email FROM outbox_mails WHERE kind = 'files_for_you'"
    assert Truth(environ).rows(mailed) == [("bob@example.org",)]
    key = issue(OF_OPERATOR)
    told = closed.ask("send", *words, code=2, BEELINE_API_KEY=key)
    assert "--from you@example.org" in told["error"]["message"]
    assert set(Truth(environ).rows(STORED)) == {(CY, CY, "READY"), (None, "Acme", "DELETED")}
