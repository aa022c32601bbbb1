"""`flask reports`, `transfers` and `blocklist`, as an operator uses them."""

import hashlib
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from app import abuse_cli
from app.db import db, release
from app.extensions import storage
from app.models import Board, FileRequest, Harm, Inspection
from app.services import abuse, blocklist_scan, file_requests, transfers
from tests.factories import Machine, Sender, Sent
from tests.mail import ADA

Run = Callable[..., str]


@pytest.fixture
def run(app: Flask) -> Run:
    """Runs one command, asserts its exit code, and returns its output."""

    def run(*words: str, code: int = 0) -> str:
        told = app.test_cli_runner().invoke(args=words)
        assert told.exit_code == code, told.output
        return told.output

    return run


def report(sent: Sent, **words: str) -> str:
    with sent.client.application.app_context():
        return str(abuse.report(sent.slug, Harm.PHISHING, **words))


def test_a_report_from_its_arrival_to_its_closing(run: Run, sender: Sender) -> None:
    assert run("reports", "list") == "There are no open reports.\n"
    assert run("reports", "list", "--all") == "There are no reports.\n"
    sent = sender.ready(
        {"invoice.html": b"1", "b/c.txt": b"22"}, title="Your bank", message="Hi\nyou"
    )
    number = report(sent, message="It asks\nfor my bank", contact="eve@example.org")
    link = f"http://localhost/d/{sent.slug}"
    (line,) = run("reports", "list").splitlines()
    assert line.split()[0] == number
    assert line.split()[3:] == ["UTC", "phishing", "READY", link]
    shown = run("reports", "show", number)
    for words in (
        f"report   {number}, phishing", "closed   no", "from     eve@example.org", "says     It asks",
        "says     for my bank", f"link     {link}", "state    READY, 0 downloads", "title    Your bank",
        "message  Hi", "message  you", "file     invoice.html  1 byte\n", "file     b/c.txt  2 bytes",
    ):  # fmt: skip
        assert words in shown, words
    said = run("transfers", "quarantine", link)
    assert (
        said
        == f"{link} is quarantined.\nOpen reports about it: 1. Close each with `flask reports close`.\n"
    )
    assert "quarantined" in run("reports", "list")
    assert sender.client.get(f"/d/{sent.slug}").status_code == 410
    assert run("reports", "close", number) == f"Report {number} is closed.\n"
    assert run("reports", "close", number) == f"Report {number} was already closed.\n"
    assert run("reports", "list") == "There are no open reports.\n"
    assert run("reports", "list", "--all").endswith(f"{link}  closed\n")
    assert run("transfers", "quarantine", sent.slug) == f"{link} was already quarantined.\n"
    assert run("transfers", "release", sent.slug) == f"{link} is released.\n"
    assert run("transfers", "release", sent.slug) == f"{link} was not quarantined.\n"
    assert sender.client.get(f"/d/{sent.slug}").status_code == 200


def test_a_board_is_shown_and_stopped_with_its_files(run: Run, machine: Machine) -> None:
    board = machine.board("Your bank")
    link, at = board["url"], f"/boards/{board['id']}"
    machine.call("POST", f"{at}/links", json=[{"url": "https://evil.example/", "title": "x"}])
    machine.call("POST", f"{at}/files", json=[{"name": "b/invoice.html", "size": 1}])
    with machine.client.application.app_context():
        number = str(abuse.report(link.rpartition("/")[2], Harm.PHISHING, of=Board))
    (line,) = run("reports", "list").splitlines()
    assert line.split()[4:] == ["phishing", "board", link]
    said = run("transfers", "quarantine", link)
    assert said.startswith(f"{link} is quarantined.\nOpen reports about it: 1.")
    shown = run("reports", "show", number)
    for words in ("state    quarantined", "title    Your bank", "leads to https://evil.example/"):
        assert words in shown
    (own,) = (line for line in shown.splitlines() if line.startswith("file     b/invoice.html "))
    # Its file has its own link. With the file's path appended, it may look like a board's link.
    (file_link,) = own.split()[-1:]
    below = f"{file_link}/b/invoice.html"
    # It was quarantined with the board; from now on it is quarantined by itself.
    for words in ("is quarantined", "was already quarantined"):
        assert run("transfers", "quarantine", below) == f"{file_link} {words}.\n"
    assert run("transfers", "release", link) == f"{link} is released.\n"
    assert run("transfers", "release", below) == f"{file_link} is released.\n"
    with machine.client.application.app_context():
        transfers.delete(abuse.find(file_link).id)
    assert own in run("reports", "show", number)
    wrong = f"{link[:-5]}xxxxx"
    assert "does not lead anywhere" in run("transfers", "quarantine", wrong, code=1)


def test_a_file_request_is_shown_and_stopped(run: Run, sender: Sender, configure: Any) -> None:
    configure(mail_url="smtp://localhost:25")
    with sender.client.application.app_context():
        request_id = uuid.uuid4()
        file_requests.make(request_id, ADA, title="Your bank", message="Your\nID", days=1)
        slug = file_requests.one_of(ADA, request_id).slug
        sender.ready(file_request=slug)
        number = str(abuse.report(slug, Harm.PHISHING, "It is not", of=FileRequest))
    link = f"http://localhost/r/{slug}"
    (line,) = run("reports", "list").splitlines()
    assert line.split()[4:] == ["phishing", "request", link]
    shown = run("reports", "show", number)
    for words in ("state    request\n", "open     until 20", f"files to {ADA}\n", "title    Your bank\n",
                  "message  ID\n", "came     1 transfer\n", "reports  1 open", f"link     {link}\n"):  # fmt: skip
        assert words in shown, words
    said = run("transfers", "quarantine", link)
    assert said.startswith(f"{link} is quarantined.\nOpen reports about it: 1.")
    assert sender.client.get(f"/r/{slug}").status_code == 410
    assert "state    quarantined\nopen     no\n" in run("reports", "show", number)
    assert run("transfers", "release", link) == f"{link} is released.\n"
    assert sender.client.get(f"/r/{slug}").status_code == 200
    assert "does not lead" in run("transfers", "quarantine", f"{link[:-5]}xxxxx", code=1)


def test_a_file_request_is_stopped_with_what_came(run: Run, sender: Sender, configure: Any) -> None:
    configure(mail_url="smtp://localhost:25")
    with sender.client.application.app_context():
        request_id = uuid.uuid4()
        file_requests.make(request_id, ADA, title="Your bank", message="", days=1)
        slug = file_requests.one_of(ADA, request_id).slug
    came, other = sender.ready(file_request=slug), sender.ready()
    link = f"http://localhost/r/{slug}"
    said = run("transfers", "quarantine", link, "--with-what-came").splitlines()
    assert said[:2] == [
        f"{link} is quarantined.",
        "Quarantined with it, of what was sent there: 1 transfer.",
    ]
    said = run("transfers", "quarantine", "--with-what-came", link).splitlines()
    assert said[1] == "Quarantined with it, of what was sent there: 0 transfers."
    for sent, status in ((came, 410), (other, 200)):
        assert sender.client.get(f"/d/{sent.slug}").status_code == status
    wrong = run("transfers", "quarantine", other.slug, "--with-what-came", code=2)
    assert "is for the link of a file request" in wrong
    assert sender.client.get(f"/d/{other.slug}").status_code == 200
    run("transfers", "release", link)
    assert sender.client.get(f"/d/{came.slug}").status_code == 200


def test_others_words_do_not_steer_the_terminal(run: Run, sender: Sender) -> None:
    sent = sender.ready({"a\u202etxt.exe": b"1"}, title="\u202eevil\u2066")
    number = report(sent, message="a\u202eb\u2028c", contact="\u200fx")
    shown = run("reports", "show", number)
    assert "says     abc\n" in shown
    assert "file     atxt.exe" in shown
    assert not {char for char in shown if char != "\n" and not char.isprintable()}


def test_what_does_not_exist_is_reported_and_fails_the_command(run: Run, sender: Sender) -> None:
    sender.create()
    for words in (("show", "77"), ("close", "77")):
        assert "There is no report 77." in run("reports", *words, code=1)
    for verb in ("quarantine", "release"):
        assert "This link does not lead anywhere." in run("transfers", verb, "x" * 32, code=1)
    for wrong in ("0", "-1", "x", str(2**64)):
        run("reports", "show", "--", wrong, code=2)


def test_a_slug_may_begin_with_a_hyphen(run: Run, sender: Sender) -> None:
    sent = sender.create()
    sent.set(slug="-" + sent.slug[1:])
    assert run("transfers", "quarantine", sent.row().slug).endswith(" is quarantined.\n")
    assert run("transfers", "release", sent.row().slug).endswith(" is released.\n")


def test_many_files_are_not_all_listed(run: Run, sender: Sender) -> None:
    sent = sender.create({f"{n:03}": b"1" for n in range(52)})
    assert "file     and 2 more" in run("reports", "show", report(sent))


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a maker process the next file whenever the command waits."""

    def work(seconds: float) -> None:
        wanted = db.session.scalar(select(Inspection.upload_id).limit(1))
        release()
        blocklist_scan.inspect(str(wanted))

    monkeypatch.setattr(abuse_cli.time, "sleep", work)


@pytest.mark.usefixtures("maker")
def test_what_is_quarantined_is_put_on_the_block_list(run: Run, sender: Sender) -> None:
    contents = {"invoice.html": b"evil", "b/c.txt": b"22", "empty": b""}
    sent = sender.ready(contents)
    assert "Quarantine it first." in run("transfers", "block-files", sent.slug, code=1)
    run("transfers", "quarantine", sent.slug)
    said = run("transfers", "block-files", sent.slug, "no.html", code=1)
    assert "It has no file no.html that can be read." in said
    words = ("transfers", "block-files", sent.slug, "invoice.html", "--reason", "phishing")
    assert run(*words).splitlines() == [
        "  0 % read, 1 file to go",
        "1 file is on the block list.",
    ]
    (line,) = run("blocklist", "list").splitlines()
    evil = hashlib.sha256(b"evil").hexdigest()
    assert line.split()[:3] == [evil, "4", f"{zlib.crc32(b'evil'):08x}"]
    assert line.split()[-1] == "phishing"
    said = run("transfers", "block-files", sent.slug)
    assert said.splitlines()[-1] == "2 files are on the block list."
    assert len(run("blocklist", "list").splitlines()) == 2


@pytest.mark.usefixtures("maker")
def test_what_could_not_be_read_fails_the_command(run: Run, sender: Sender) -> None:
    sent = sender.ready({"a": b"1"})
    run("transfers", "quarantine", sent.slug)
    with sent.client.application.app_context():
        (file,) = transfers.files_of(sent.id)
        storage.delete([file.upload.key])
    assert "1 file could not be read." in run("transfers", "block-files", sent.slug, code=1)
    sent.call("DELETE")
    assert "It was deleted." in run("transfers", "block-files", sent.slug, code=1)


def test_an_interrupted_command_says_that_the_work_goes_on(
    run: Run, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(abuse_cli.time, "sleep", interrupted)
    sent = sender.ready({"a": b"1"})
    run("transfers", "quarantine", sent.slug)
    assert "A maker continues reading" in run("transfers", "block-files", sent.slug, code=1)


def test_the_block_list_by_hand(run: Run, sender: Sender, tmp_path: Path) -> None:
    assert run("blocklist", "list") == "The block list is empty.\n"
    (tmp_path / "evil").write_bytes(b"evil")
    evil = hashlib.sha256(b"evil").hexdigest()
    assert run("blocklist", "add", str(tmp_path / "evil")) == f"{evil} is on the list.\n"
    by_sums = ("blocklist", "add", "--sha256", evil.upper(), "--size", "4")
    assert run(*by_sums) == f"{evil} was already on the list.\n"
    sent = sender.create({"a": b"evil"}).upload().complete().process()
    assert sent.show()["status"] == "PROCESSING"
    assert run("blocklist", "remove", evil) == f"{evil} is off the list.\n"
    assert run("blocklist", "remove", evil) == f"{evil} was not on the list.\n"
    (tmp_path / "empty").touch()
    assert "An empty file cannot be blocked" in run(
        "blocklist", "add", str(tmp_path / "empty"), code=1
    )
    for wrong in (
        (), (str(tmp_path / "evil"), "--size", "4"), ("--sha256", evil), ("--size", "4"),
        ("--sha256", "12", "--size", "4"), ("--sha256", "x" * 64, "--size", "4"),
        ("--sha256", evil, "--size", "0"), ("--sha256", evil, "--size", "4", "--crc32", "1"),
        (str(tmp_path / "evil"), "--crc32", "00000000"),
    ):  # fmt: skip
        run("blocklist", "add", *wrong, code=2)
    run("blocklist", "remove", "12", code=2)


def test_a_report_made_by_the_block_list_says_so(run: Run, sender: Sender, tmp_path: Path) -> None:
    (tmp_path / "evil").write_bytes(b"evil")
    run("blocklist", "add", str(tmp_path / "evil"), "--reason", "malware")
    sent = sender.create({"b/a.exe": b"evil"}).upload().complete().process()
    with sent.client.application.app_context():
        blocklist_scan.inspect(str(db.session.scalar(select(Inspection.upload_id))))
    (line,) = run("reports", "list").splitlines()
    assert "malware    quarantined" in line
    shown = run("reports", "show", line.split()[0])
    assert f"from     the block list, {hashlib.sha256(b'evil').hexdigest()}\n" in shown
    assert "found    b/a.exe\n" in shown
