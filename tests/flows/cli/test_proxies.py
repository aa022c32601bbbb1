"""`beeline` behind a proxy: what goes through it, what does not, and what it gets to see."""

import base64
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.models import Scope
from app.services import accounts
from cli import beeline
from embedded.ports import free_port
from tests.flows.cli.proxies import ForwardProxy
from tests.flows.cli.shell import Shell, heard, names, sums
from tests.lab.receiver import make_certificates
from tests.lab.s3faults import S3Faults
from tests.threats.conftest import LoggedStack

pytestmark = pytest.mark.real_commits
PORTS = {"https": 443, "http": 80}
PASSWORD = "pa@ss/w:rd"
WANTED = f"Basic {base64.b64encode(f'ada:{PASSWORD}'.encode()).decode()}"
SECRETS = (PASSWORD, "pa%40ss%2Fw:rd", WANTED.partition(" ")[2])


class Site:
    """Beeline and its storage, at names that only a proxy knows."""

    def __init__(self, scheme: str, web: S3Faults, storage: S3Faults, trusted: Path) -> None:
        self.scheme, self.web, self.storage = scheme, web, storage
        self.url = f"{scheme}://beeline.test"
        self.environ = {"BEELINE_SERVER": self.url, "SSL_CERT_FILE": str(trusted)}
        self.routes = {
            f"{name}.test:{PORTS[scheme]}": before.url.partition("://")[2]
            for name, before in (("beeline", web), ("storage", storage))
        }

    def behind(self, proxy: str) -> dict[str, str]:
        """What somebody's environment says who needs this proxy."""
        return self.environ | {f"{self.scheme.upper()}_PROXY": proxy}


@pytest.fixture(scope="module", params=PORTS)
def site(
    request: pytest.FixtureRequest,
    web: LoggedStack,
    environ: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    scheme, folder, tls = request.param, tmp_path_factory.mktemp("tls"), None
    make_certificates(folder, "beeline.test", "storage.test")
    if scheme == "https":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "server.pem")
    web.start(
        "web.2",
        BASE_URL="http://beeline.test",
        S3_PUBLIC_ENDPOINT_URL=f"{scheme}://storage.test",
    )
    with (
        S3Faults(web.addresses()[-1], tls) as server,
        S3Faults(environ["S3_ENDPOINT_URL"], tls) as storage,
    ):
        yield Site(scheme, server, storage, folder / "ca.pem")
    web.kill("web.2")


@pytest.fixture
def key(app: Flask) -> str:
    with app.app_context():
        return accounts.issue_key("Acme", "a test's", Scope.WRITE).text


def test_everything_goes_through_it_and_it_learns_no_more_than_it_must(
    shell: Shell, site: Site, key: str
) -> None:
    """Its password goes to nobody else, the key goes to it only where it goes without TLS."""
    words = [*shell.write({"a": b"1", "b.bin": os.urandom(9_000_000)}), "--allow-http"]
    asked, put = heard(site.web), heard(site.storage)
    with ForwardProxy(site.routes, wants=WANTED) as proxy:
        given = site.behind(f"http://ada:pa%40ss%2Fw:rd@{proxy.address}/")
        said, told = shell.run("send", *words, BEELINE_API_KEY=key, **given)
        link = f"{site.url}/d/{said.strip().rpartition('/')[2]}"
        got = shell.run("get", link, "-o", "got", "--allow-http", BEELINE_API_KEY=key, **given)
    assert sums(shell.home / "got") == sums(shell.home / "src")
    assert len([one for one in put if one.method == "PUT"]) == 3
    assert not [one for one in put if names(one) & {"authorization", "x-api-key", "cookie"}]
    assert not [one for one in asked + put if "proxy-authorization" in names(one)]
    assert [one.operation for one in asked if "x-api-key" in names(one)] == ["POST "]
    assert {one.headers["Proxy-Authorization"] for one in proxy.asked} == {WANTED}
    with_key = [one.target for one in proxy.asked if key in one.headers.values()]
    if site.scheme == "https":
        assert {one.method for one in proxy.asked} == {"CONNECT"}
        assert {one.target for one in proxy.asked} == set(site.routes)
        assert with_key == []
        assert len(proxy.passed) > 18_000_000
        assert key.encode() not in proxy.passed
    else:
        assert len(proxy.asked) == len(asked) + len(put)
        assert with_key == ["http://beeline.test/transfers"]
        assert "Without TLS, others can read the API key on its way to beeline.test." in told
    kept = [path for path in (shell.home / ".local").rglob("*") if path.is_file()]
    shown = "".join([said, told, *got, *(path.read_text() for path in kept)])
    assert not [one for one in (*SECRETS, key) if one in shown]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "needs a name and a password: {variable}=http://name:password@{proxy}"),
        ("ada:wrong-word@", "did not accept the name and the password in {variable}."),
    ],
)
def test_a_proxy_that_wants_another_password_says_so(
    shell: Shell, site: Site, user: str, expected: str
) -> None:
    words = [*shell.write({"a": b"1"}), "--allow-http"]
    with ForwardProxy(site.routes, wants=WANTED) as proxy:
        given = site.behind(f"{user}{proxy.address}")
        said, told = shell.run("send", *words, code=4, **given)
        expected = expected.format(variable=f"{site.scheme.upper()}_PROXY", proxy=proxy.address)
        assert (said, told) == ("", f"beeline: The proxy {proxy.address} {expected}\n")
        assert len(proxy.asked) == 1


def test_what_was_begun_goes_on_once_the_proxy_lets_it(shell: Shell, site: Site) -> None:
    words = [*shell.write({"a": b"1"}), "--allow-http"]
    only_web = {name: there for name, there in site.routes.items() if "beeline" in name}
    shell.retry_at_once()
    with ForwardProxy(only_web) as proxy:
        told = shell.ask("send", *words, "--patience", "1s", code=4, **site.behind(proxy.address))
        if site.scheme == "https":
            expected = f"The proxy {proxy.address} cannot reach storage.test (status 502)."
            assert told["error"]["message"] == expected
        proxy.routes = site.routes
        shell.run("resume", "--allow-http", **site.behind(proxy.address))
        proxy.refusal = 403
        told = shell.ask(
            "send", *words, code=1 if site.scheme == "http" else 4, **site.behind(proxy.address)
        )
        assert "403" in told["error"]["message"]


def test_a_proxy_that_is_away_is_named(shell: Shell, site: Site) -> None:
    shell.retry_at_once()
    words, proxy = [*shell.write({"a": b"1"}), "--allow-http"], f"127.0.0.1:{free_port()}"
    given = site.behind(f"http://ada:secret@{proxy}")
    _, told = shell.run("send", *words, "--patience", "1s", code=4, **given)
    expected = f"beeline.test cannot be reached through the proxy {proxy}: "
    assert told.splitlines()[-1].startswith(f"beeline: {expected}")
    assert "secret" not in told


def test_this_computer_is_reached_without_a_proxy(shell: Shell) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    shell.run("send", *shell.write({"a": b"1"}), HTTP_PROXY=proxy, HTTPS_PROXY=proxy)


# -- what the environment says -----------------------------------------------------------------


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set variables; what else the environment says of proxies is not there."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return lambda **given: [monkeypatch.setenv(*one) for one in given.items()]


def to(url: str) -> beeline.Proxy | None:
    return beeline.Proxy.to(beeline.place_of(url))


@pytest.mark.parametrize(
    ("given", "https", "http"),
    [
        ({}, "None", "None"),
        ({"HTTPS_PROXY": "http://a:1"}, "a:1", "None"),
        ({"HTTP_PROXY": "http://a:1"}, "None", "a:1"),
        ({"http_proxy": "a:1", "HTTP_PROXY": "b:1", "https_proxy": "c", "HTTPS_PROXY": "d"}, "c:1080", "a:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://[fd00::1]:3128/"}, "[fd00::1]:3128", "None"),
        ({"ALL_PROXY": "a:1"}, "None", "None"),
    ],
)  # fmt: skip
def test_a_proxy_is_found_as_curl_finds_it(
    says: Any, given: dict[str, str], https: str, http: str
) -> None:
    says(**given)
    assert (str(to("https://send.test")), str(to("http://send.test"))) == (https, http)
    for here in ("localhost", "127.0.0.1", "[::1]"):
        assert to(f"http://{here}:8000") is None


@pytest.mark.parametrize(
    "given",
    [
        "socks5://ada:hush@proxy.test:1",
        "https://ada:hush@proxy.test",
        "http://ada:12/hush@proxy.test:1",
        "http://ada:hu#sh@proxy.test",
        "http://ada:12?34hush@proxy.test",
        "http://ada:hush@",
        "http://ada:hush@proxy.test:port",
        "http://ada:hush@[proxy.test",
    ],
)
def test_what_is_no_proxy_for_http_is_refused_and_not_shown(says: Any, given: str) -> None:
    says(HTTPS_PROXY=given)
    with pytest.raises(beeline.Usage, match=r"^HTTPS_PROXY is not the address of") as told:
        to("https://send.test")
    assert "hush" not in told.value.message
    assert "ada" not in told.value.message


@pytest.mark.parametrize(
    ("no_proxy", "direct", "through"),
    [
        ("*", ["send.test", "10.0.0.1"], []),
        ("send.test", ["send.test", "SEND.test", "a.send.test"], ["asend.test", "send.test.org"]),
        (".send.test", ["send.test", "a.b.send.test"], ["xsend.test"]),
        ("one.test, send.test\ttwo.test", ["one.test", "send.test", "two.test"], ["test"]),
        ("SEND.test:8443", ["send.test:8443", "a.send.test:8443"], ["send.test"]),
        ("send.test:443", ["send.test"], ["send.test:8443"]),
        ("10.0.0.0/8,192.168.1.5", ["10.9.9.9", "192.168.1.5"], ["11.0.0.1", "192.168.1.6"]),
        ("[fd00::1]:443,fe80::/10", ["[fd00::1]", "[fe80::5]"], ["[fd00::1]:8443", "[fd00::2]"]),
        ("fd00:0::1", ["[fd00::1]"], ["[fd00::2]"]),
        (",, . ,", [], ["send.test"]),
    ],
)
def test_no_proxy_names_what_is_reached_without(
    says: Any, no_proxy: str, direct: list[str], through: list[str]
) -> None:
    says(HTTPS_PROXY="http://proxy.test", NO_PROXY=no_proxy)
    assert [one for one in direct + through if to(f"https://{one}") is None] == direct
    says(no_proxy="other.test")
    assert to("https://send.test") is not None


def test_a_proxy_that_cannot_be_found_is_named() -> None:
    proxy = beeline.Proxy("HTTPS_PROXY", "proxy.test", 1, {})
    told = str(beeline._away("send.test", socket.gaierror(), proxy))
    assert told == "The proxy proxy.test cannot be found, or this computer is offline."
    told = str(beeline._away("send.test", socket.timeout(), proxy))  # noqa: UP041
    assert told == "send.test does not answer through the proxy proxy.test:1."


def test_a_proxy_cannot_answer_for_a_server_with_tls(
    says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by hanging up first, so that the question cannot be asked."""
    connect = socket.create_connection
    with socket.create_server(("127.0.0.1", 0)) as listening:
        says(HTTPS_PROXY=f"http://127.0.0.1:{listening.getsockname()[1]}")

        def answer_first(*given: Any, **more: Any) -> socket.socket:
            ours = connect(*given, **more)
            theirs, _ = listening.accept()
            theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            return ours

        monkeypatch.setattr(socket, "create_connection", answer_first)
        with pytest.raises(beeline.Away):
            beeline.Lines(allow_http=False).request("GET", "https://send.test/", {})
