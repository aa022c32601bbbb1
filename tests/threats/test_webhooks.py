"""S24: whoever names an address for webhooks reaches nothing with it that only we can reach."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from app.gateways import webhook
from app.gateways.webhook import BadAddress, Courier, is_public, target_of
from app.models import Scope
from tests.factories import Machine
from tests.lab.receiver import Canary

# Every spelling of this machine, or of another that is nobody's business, with the canary's port.
SPELLINGS = [
    "http://localhost:{port}/",
    "http://127.0.0.1:{port}/",
    "https://localhost:{port}/",
    "https://127.0.0.1:{port}/",
    "https://LOCALHOST:{port}/",
    "https://localhost.:{port}/",
    "https://localhost.localdomain:{port}/",
    "https://127.1:{port}/",
    "https://127.0.1:{port}/",
    "https://0:{port}/",
    "https://0.0.0.0:{port}/",
    "https://2130706433:{port}/",
    "https://017700000001:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://0x7f000001:{port}/",
    "https://0x7f.0.0.1:{port}/",
    "https://127.0.0.0x1:{port}/",
    "https://127.0.0.1.:{port}/",
    "https://[::1]:{port}/",
    "https://[::]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[0:0:0:0:0:ffff:127.0.0.1]:{port}/",
    "https://[::127.0.0.1]:{port}/",
    "https://[64:ff9b::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[fe80::1%25lo]:{port}/",
    "https://①②⑦.⓪.⓪.①:{port}/",
    "https://127。0。0。1:{port}/",
    "https://ⓛocalhost:{port}/",
    "https://%6c%6f%63%61%6c%68%6f%73%74:{port}/",
    "https://hooks.example.org@127.0.0.1:{port}/",
    "https://user:password@localhost:{port}/",
    "https://127.0.0.1:{port}\\@hooks.example.org/",
    "https://127.0.0.1:{port}#@hooks.example.org/",
    "https://127.0.0.1\t:{port}/",
    "https:/127.0.0.1:{port}/",
    "https:127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_POST",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "https://169.254.169.254/latest/meta-data/",
    "https://metadata:{port}/",
]
# Names that are spelled well, and where they lead to.
LEADING = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "192.88.99.1", "168.63.129.16", "224.0.0.1", "239.1.1.1",
    "240.0.0.1", "255.255.255.255", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::",
    "2002:a00:1::", "2001:0:5ef5:79fd::1", "2001:db8::1", "2001:10::1", "3fff::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "100::1", "5f00::1", "no address",
]  # fmt: skip


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    """Whoever is reached here was not kept from it."""
    started = Canary()
    yield started
    started.close()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_s24_no_spelling_leads_here(canary: Canary, spelling: str) -> None:
    before = canary.visits
    url = spelling.replace("{port}", str(canary.port))
    with pytest.raises(BadAddress):
        target_of(url)
    answer = Courier().post(url, b"{}", {})
    assert (answer.status, answer.is_taken) == (None, False)
    assert answer.error.startswith("This address ")
    assert canary.visits == before


@pytest.mark.parametrize("address", LEADING)
def test_s24_no_name_leads_where_only_we_can_go(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Nor does one that leads to somewhere public as well."""
    assert not is_public(address)
    asked: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda *given, **more: asked.append(given))
    for addresses in ([address], ["93.184.216.34", address], [address, "93.184.216.34"]):
        monkeypatch.setattr(webhook, "_look_up", lambda *given, told=addresses: told)
        answer = Courier().post("https://hooks.example.org/", b"{}", {})
        assert answer.error == "This address is not public."
    assert asked == []


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_s24_what_is_public_may_be_asked(address: str) -> None:
    assert is_public(address)


def test_s24_a_name_is_resolved_once_and_the_connection_goes_there(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads elsewhere the second time leads nowhere."""
    asked: list[str] = []
    connected: list[Any] = []

    def resolve(host: str, *given: Any, **more: Any) -> list[Any]:
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, canary.port))]

    def connect(address: Any, **more: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert (
        Courier().post("https://hooks.example.org/", b"{}", {}).error == "It refuses connections."
    )
    assert asked == ["hooks.example.org"]
    assert connected == [("93.184.216.34", 443)]


def test_s24_a_name_that_does_not_exist_is_told_as_one_that_is_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else our own names could be found out by asking for them."""
    errors = set()
    for found in ([], ["10.0.0.1"]):
        monkeypatch.setattr(webhook, "_look_up", lambda *given, told=found: told)
        errors.add(Courier().post("https://db.internal.example/", b"{}", {}).error)
    assert len(errors) == 1


@pytest.mark.parametrize("port", [0, 22, 80, 5432, 6379, 8080, 65535])
def test_s24_other_ports_are_refused(port: int) -> None:
    with pytest.raises(BadAddress, match="443 or 8443"):
        target_of(f"https://hooks.example.org:{port}/")


def test_s24_the_api_refuses_them_too(app: Flask, canary: Canary) -> None:
    machine = Machine(app.test_client(), scope=Scope.ADMIN)
    headers = {"x-api-key": machine.key}
    for spelling in SPELLINGS:
        url = spelling.replace("{port}", str(canary.port))
        body = {"url": url, "events": ["transfer.ready"]}
        answer = machine.client.post("/webhooks", json=body, headers=headers)
        assert answer.status_code == 400, url
        assert [one["field"] for one in answer.json["error"]["fields"]] == ["url"], url
    assert machine.client.get("/webhooks", headers=headers).json == {"webhooks": []}
    assert canary.visits == 0
