"""Where letters go: SMTP in all its moods, SES, a folder. Credentials are told to nobody."""

import random
import ssl
import subprocess
import urllib.request
from dataclasses import replace
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import EmailPolicy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult
from botocore.stub import ANY, Stubber

from app import config
from app.gateways import mailer as gateway
from app.gateways.mailer import Fate, Mailer, Subject
from embedded import services
from tests.lab.mailserver import MailServer
from tests.lab.proxy import Proxy
from tests.test_config import GOOD

TO = "bo@example.org"
UNVERIFIED = (
    "Email address is not verified. The following identities failed the check in region EU-WEST-1:"
)


def mailer_to(url: str, **more: Any) -> Mailer:
    made = Mailer()
    settings = replace(config.load(GOOD | {"MAIL_URL": url}), **more)
    made.bind(settings)
    return made


def letter(to: str = TO) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "bee@example.org", to, "Grüße"
    made["Message-ID"] = "<1@example.org>"
    made["List-Unsubscribe"] = f"<https://example.org/u/{'x' * 300}>"
    made.set_content("Hello")
    return made


def test_without_an_address_there_is_no_mail() -> None:
    assert not mailer_to("").is_on


def test_many_letters_take_one_connection_and_each_has_its_own_fate() -> None:
    with MailServer() as server, mailer_to(server.url).line() as line:
        server.answers = {
            "no@x.org": ["550 no"],
            "later@x.org": ["451 later"],
            "bye@x.org": ["421 bye"],
        }
        fates = [line.send(letter(), to).fate for to in (TO, "no@x.org", "later@x.org", TO)]
        assert fates == [Fate.TAKEN, Fate.REFUSED, Fate.LATER, Fate.TAKEN]
        assert server.connections == 1
        assert line.send(letter(), "bye@x.org").fate is Fate.LATER
        assert line.send(letter(), TO).fate is Fate.TAKEN
        assert server.connections == 2
        assert [one.to for one in server.caught] == [TO] * 3


def test_headers_that_programs_read_stay_in_one_piece() -> None:
    with MailServer() as server, mailer_to(server.url).line() as line:
        line.send(letter(), TO)
        lines = server.caught[0].raw.split(b"\r\n")
    assert b"List-Unsubscribe: <https://example.org/u/" + b"x" * 300 + b">" in lines


WORDS = [
    *("Rushes,", "Thursday", "with", "Grüße", "–", "写真", "ملف", "😀", "final_cut"),
    *("a=b", "=?", "?=", "=?utf-8?q?b?=", "x" * 90, "ü" * 90),
]


@pytest.mark.parametrize("form", [gateway._PLAIN, gateway._UTF8], ids=["plain", "utf8"])
@pytest.mark.parametrize("sender", ["ada@example.org", f"{'a' * 38}@example.org"])
def test_a_subject_is_read_as_it_was_written(sender: str, form: EmailPolicy) -> None:
    chance = random.Random(1)
    for _ in range(300):
        title = " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))
        for subject in (f"{sender} sends you “{title}”", f"{sender} sends you {title}"):
            made = EmailMessage(policy=policy.SMTP)
            made["Subject"] = Subject(subject)
            raw = made.as_bytes(policy=form)
            assert raw.isascii()
            assert all(len(line) <= 78 for line in raw.split(b"\r\n"))
            assert message_from_bytes(raw, policy=policy.default)["Subject"] == subject
            assert str(make_header(decode_header(message_from_bytes(raw)["Subject"]))) == subject


def test_a_subject_that_stands_for_itself_goes_as_it_is() -> None:
    made = EmailMessage(policy=policy.SMTP)
    made["Subject"] = Subject("123456 is your code for Beeline")
    raw = made.as_bytes(policy=gateway._PLAIN)
    assert raw.startswith(b"Subject: 123456 is your code for Beeline\r\n")


def test_an_address_beyond_ascii_needs_a_server_that_knows_such() -> None:
    address = "jürgen@example.org"
    with MailServer() as server:
        with mailer_to(server.url).line() as line:
            assert line.send(letter(address), address).fate is Fate.TAKEN
        assert server.caught[0].to == address
    with MailServer(enable_SMTPUTF8=False) as old, mailer_to(old.url).line() as line:
        assert line.send(letter(address), address).fate is Fate.REFUSED
        assert line.send(letter(), TO).fate is Fate.TAKEN


@pytest.mark.parametrize("fault", ["down", "blackhole", "cut"])
def test_a_server_that_is_away_is_asked_once_or_twice_and_not_for_each_letter(
    fault: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(gateway, "TIMEOUT_SECONDS", 0.3)
    with MailServer() as server, Proxy("127.0.0.1", server.port) as proxy:
        {"down": proxy.down, "blackhole": proxy.blackhole, "cut": lambda: proxy.cut_after(400)}[
            fault
        ]()
        with mailer_to(f"smtp://127.0.0.1:{proxy.port}").line() as line:
            outcomes = [line.send(letter(), TO) for _ in range(20)]
        assert {one.fate for one in outcomes} == {Fate.LATER}
        assert server.connections <= 2
        assert all(one.reason for one in outcomes)


def test_an_unknown_host_is_away() -> None:
    with mailer_to("smtp://mail.invalid:25").line() as line:
        assert line.send(letter(), TO).fate is Fate.LATER


def test_why_no_mail_can_be_handed_over_is_told_in_words() -> None:
    with MailServer() as server:
        at = f"127.0.0.1:{server.port}"
        assert "wrong version number" in why_not(f"smtps://{at}")
        assert "offers no login" in why_not(f"smtp://who:secret@{at}")
    assert why_not(f"smtp://{at}") == "the mail server does not answer (Connection refused)"
    assert "not known" in why_not("smtp://mail.invalid:25")


def why_not(url: str) -> str:
    with mailer_to(url).line() as line:
        return line.open()


# -- TLS and passwords -----------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_starttls_is_taken_where_it_is_offered(certificate: ssl.SSLContext) -> None:
    with MailServer(tls_context=certificate, require_starttls=True) as server:
        with mailer_to(server.url, mail_require_tls=True).line() as line:
            assert line.send(letter(), TO).fate is Fate.TAKEN
        assert server.was_tls


def test_where_tls_is_required_and_not_offered_nothing_is_handed_over() -> None:
    with MailServer() as server, mailer_to(server.url, mail_require_tls=True).line() as line:
        outcome = line.send(letter(), TO)
        assert outcome.fate is Fate.LATER
        assert "offers no TLS" in outcome.reason
        assert server.caught == []


def refusing(*given: Any) -> AuthResult:
    return AuthResult(success=False, handled=False)


def test_a_wrong_password_is_no_refusal_of_anybody_and_is_not_repeated(caplog: Any) -> None:
    with MailServer(auth_require_tls=False, authenticator=refusing) as server:
        mailer = mailer_to(server.url.replace("://", "://who:s3cr%20et@"))
        with mailer.line() as line:
            outcome = line.send(letter(), TO)
        assert outcome.fate is Fate.LATER
        assert "does not let us in" in outcome.reason
    for said in (caplog.text, outcome.reason, repr(mailer), repr(vars(mailer))):
        assert "s3cr" not in said


def test_a_password_that_cannot_be_told_breaks_nothing(caplog: Any) -> None:
    """The settings refuse it; whatever else the library cannot write down is no exception either."""
    with MailServer(auth_require_tls=False, authenticator=refusing) as server:
        url = server.url.replace("://", "://who:s3cr%C3%A4t@")
        with mailer_to(server.url, mail_url=url).line() as line:
            outcome = line.send(letter(), TO)
    assert outcome.fate is Fate.LATER
    assert "MAIL_URL" in outcome.reason
    assert "s3cr" not in caplog.text + outcome.reason


def test_what_ses_has_not_verified_is_for_its_operator_and_refuses_nobody(caplog: Any) -> None:
    """Its sandbox, or a MAIL_FROM that it does not know; the log repeats no address."""
    with MailServer() as server, mailer_to(server.url).line() as line:
        server.answers = {TO: [f"554 Message rejected: {UNVERIFIED} {TO}"]}
        assert line.send(letter(), TO).fate is Fate.LATER
    assert "MAIL_FROM" in caplog.text
    assert TO not in caplog.text


def test_a_password_goes_nowhere_without_tls(monkeypatch: Any) -> None:
    """But on loopback, where nobody listens in."""
    monkeypatch.setattr(gateway, "_LOOPBACK", set())
    with MailServer(auth_require_tls=False, authenticator=refusing) as server:
        with mailer_to(server.url.replace("://", "://who:secret@")).line() as line:
            outcome = line.send(letter(), TO)
        assert "must not go without" in outcome.reason


def test_settings_and_servers_tell_no_secret() -> None:
    server = gateway._Server("h", 25, False, False, user="who", password="s3cret")
    assert "s3cret" not in repr(server)
    assert "0123456789" not in repr(config.load(GOOD))


@pytest.mark.parametrize(
    "url",
    [
        "smtp://",
        "http://x",
        "smtp://h:0",
        "smtp://h:x",
        "file://h/x",
        "ses://",
        "smtp://[h",
        "smtp://h\u2100x",
        "x",
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(config.ConfigError, match="MAIL_URL") as caught:
        config.load(GOOD | {"MAIL_URL": url.replace("://", "://u:s3cret@") if "h" in url else url})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "given", ["Bee", "Bee <bee>", "a@b.org\r\nBcc: x@y.org", "Bee\n <a@b.org>"]
)
def test_a_from_that_cannot_be_meant_is_refused(given: str) -> None:
    with pytest.raises(config.ConfigError, match="MAIL_FROM"):
        config.load(GOOD | {"MAIL_FROM": given})


def test_what_make_run_embeds_takes_our_letters() -> None:
    with services.started(["mail"]) as environ:
        with mailer_to(environ["MAIL_URL"], base_url="http://127.0.0.1:8000").line() as line:
            assert line.send(letter("jürgen@exämple.org"), "jürgen@exämple.org").fate is Fate.TAKEN
        with urllib.request.urlopen(environ["MAIL_PAGE_URL"], timeout=10) as page:
            assert "jürgen@exämple.org" in page.read().decode()


# -- elsewhere -----------------------------------------------------------------------------------


def test_a_folder_gets_each_letter_as_a_file(tmp_path: Path) -> None:
    with mailer_to(f"file://{tmp_path}/out").line() as line:
        for _ in range(2):
            assert line.send(letter(), TO).fate is Fate.TAKEN
    (path,) = (tmp_path / "out").iterdir()
    assert path.suffix == ".eml"
    assert message_from_bytes(path.read_bytes(), policy=policy.default)["Subject"] == "Grüße"


def test_a_folder_that_cannot_be_written_is_away(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with mailer_to(f"file://{tmp_path}/out").line() as line:
        assert line.send(letter(), TO).fate is Fate.LATER


@pytest.mark.parametrize(
    ("code", "why", "fate"),
    [
        (None, "", Fate.TAKEN),
        ("MessageRejected", "why", Fate.REFUSED),
        ("MessageRejected", f"{UNVERIFIED} bee@example.org", Fate.LATER),
        ("TooManyRequestsException", "why", Fate.LATER),
        ("AccountSuspendedException", "why", Fate.LATER),
        ("ExpiredTokenException", "why", Fate.LATER),
    ],
)
def test_ses_takes_the_raw_letter(code: str | None, why: str, fate: Fate, monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    post = gateway._Ses("eu-west-1", config.load(GOOD))
    with Stubber(post.client) as stub:
        wanted = {
            "FromEmailAddress": "bee@example.org",
            "Destination": {"ToAddresses": [TO]},
            "Content": {"Raw": {"Data": ANY}},
        }
        if code is None:
            stub.add_response("send_email", {"MessageId": "1"}, wanted)
        else:
            stub.add_client_error("send_email", code, why)
        outcome = post.send(letter(), "bee@example.org", TO)
        assert outcome.fate is fate
        stub.assert_no_pending_responses()
