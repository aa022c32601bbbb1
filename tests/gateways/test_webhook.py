"""Messages to strangers' servers, against a real one with a real certificate."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.gateways import webhook
from app.gateways.webhook import BadAddress, Courier, target_of
from tests.lab.receiver import Receiver, make_certificates

NAME = "hooks.example.org"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"), NAME)


@pytest.fixture
def receiver(certificates: Path) -> Iterator[Receiver]:
    with Receiver(certificates) as started:
        yield started


@pytest.fixture
def public(receiver: Receiver, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The receiver as if it were on the Internet: its name leads to an address that is public, and
    whoever connects to that comes to it. Who was connected to."""
    connected: list[Any] = []
    connect = socket.create_connection

    def through(address: Any, **given: Any) -> socket.socket:
        connected.append(address)
        return connect(("127.0.0.1", receiver.port), **given)

    look_up = {NAME: ["93.184.216.34"], "other.example.org": ["93.184.216.34"]}
    monkeypatch.setattr(webhook, "_look_up", lambda host, port: look_up.get(host, []))
    monkeypatch.setattr(socket, "create_connection", through)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    return connected


def post(url: str = f"https://{NAME}/hook?a=b", **given: Any) -> webhook.Answer:
    return Courier(**given).post(url, b"{}", {"webhook-id": "1"})


def test_it_goes_to_the_address_that_was_looked_at_under_the_name(
    receiver: Receiver, public: list[Any]
) -> None:
    answer = post()
    assert (answer.status, answer.error, answer.is_taken) == (200, "", True)
    assert 0 <= answer.latency_ms < 5000
    assert public == [("93.184.216.34", 443)]
    assert receiver.names == [NAME]
    (came,) = receiver.came
    assert (came.path, came.body) == ("/hook?a=b", b"{}")
    assert (came.headers["host"], came.headers["webhook-id"]) == (NAME, "1")
    assert post(f"https://{NAME.upper()}:8443").is_taken
    assert receiver.came[1].headers["host"] == f"{NAME}:8443"
    assert receiver.came[1].path == "/"


def test_a_certificate_of_another_name_or_of_nobody_known_is_refused(
    receiver: Receiver, public: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "certificate is not valid" in post("https://other.example.org/").error
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate is not valid" in post().error
    assert receiver.came == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_s24_a_redirect_is_a_failure_and_not_followed(
    receiver: Receiver, public: list[Any], status: int
) -> None:
    receiver.answers = [status]
    assert post().error == f"It answered {status}, and redirects are not followed."
    assert len(receiver.came) == 1


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_whatever_is_no_2xx_is_a_failure(
    receiver: Receiver, public: list[Any], status: int
) -> None:
    receiver.answers = [status]
    answer = post()
    assert (answer.status, answer.error) == (status, f"It answered {status}.")
    assert answer.is_gone == (status == 410)


def test_s24_all_of_it_together_has_its_time(
    receiver: Receiver, public: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 0.4)
    receiver.answers = [1.5]
    began = time.monotonic()
    assert post().error == "It did not answer within 0 seconds."
    assert time.monotonic() - began < 1.2


def test_s24_what_drips_is_cut_off(
    receiver: Receiver, public: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece comes in time, and the whole never."""
    monkeypatch.setattr(webhook, "SECONDS", 0.5)
    receiver.answers = [[b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 40]]
    began = time.monotonic()
    assert post().error.startswith("It did not answer within")
    assert time.monotonic() - began < 1.2


def test_s24_no_more_than_64_kib_are_read(receiver: Receiver, public: list[Any]) -> None:
    """And what has been taken is taken, whatever else is said."""
    receiver.answers = [[b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 10_000] * 80]]
    began = time.monotonic()
    assert post().is_taken
    assert time.monotonic() - began < 3, "all of it takes four seconds"
    receiver.answers = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno figures\r\n"]
    assert post().is_taken


@pytest.mark.parametrize("said", [b"", b"hello\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"\x16\x03"])
def test_what_is_no_answer_is_told_in_our_own_words(
    receiver: Receiver, public: list[Any], said: bytes
) -> None:
    receiver.answers = [said]
    answer = post()
    assert answer.status is None
    assert answer.error in (
        "It does not answer like a web server.",
        "It could not be reached, or closed the connection.",
    )


def test_the_proxies_of_the_environment_are_not_asked(
    receiver: Receiver, public: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post().is_taken
    assert public == [("93.184.216.34", 443)]


def test_another_of_its_addresses_is_tried_where_one_does_not_answer(
    receiver: Receiver, public: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def refusing(address: Any, **given: Any) -> socket.socket:
        if address[0] == "2606:4700::1111":
            public.append(address)
            raise OSError("no route")
        return connect(address, **given)

    monkeypatch.setattr(webhook, "_look_up", lambda *given: ["2606:4700::1111", "93.184.216.34"])
    monkeypatch.setattr(socket, "create_connection", refusing)
    assert post().is_taken
    assert [address for address, _ in public] == ["2606:4700::1111", "93.184.216.34"]


def test_a_resolver_that_hangs_holds_nobody(
    public: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 0.3)
    monkeypatch.setattr(webhook, "_look_up", lambda *given: time.sleep(1))
    assert post().error.startswith("It did not answer")
    assert public == []


def test_on_this_machine_only_where_that_is_allowed() -> None:
    with Receiver() as here:
        assert post(here.url, may_be_here=True).is_taken
        assert post(here.url).error == "This address must begin with https://."
        named = here.url.replace("127.0.0.1", "localhost")
        assert post(named, may_be_here=True).is_taken
        assert len(here.came) == 2
    assert post(here.url, may_be_here=True).error == "It refuses connections."


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://example.org/", "https://10.0.0.1/"])
def test_s24_what_is_allowed_here_is_allowed_nowhere_else(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[Any] = []
    monkeypatch.setattr(webhook, "_look_up", lambda host, port: ["10.0.0.1", "93.184.216.34"])
    monkeypatch.setattr(socket, "create_connection", lambda *given, **more: connected.append(given))
    assert "This address" in post(url, may_be_here=True).error
    assert connected == []


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org",
        "https://hooks.example.org:443/a/b?c=d&e=%20",
        "https://Hooks.Example.org:8443/",
        "https://xn--bcher-kva.example/",
        "https://a-b.c-d.example.co.uk/~x",
    ],
)
def test_usual_addresses_are_taken(url: str) -> None:
    assert target_of(url).port in webhook.PORTS


def test_letters_beyond_ascii_are_told_how_to_be_written() -> None:
    for url in ("https://bücher.example/", "https://hooks.example.org/Grüße"):
        with pytest.raises(BadAddress, match="write its host as xn--…, the rest as %C3%A4"):
            target_of(url)


@pytest.mark.parametrize("url", ["", "https://", "https:///x", "https://a.example\n", "x" * 3000])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(BadAddress):
        target_of(url)
