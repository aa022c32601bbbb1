"""`flask reports` and `flask transfers`, as an operator types them."""

from collections.abc import Callable

import pytest
from flask import Flask

from app.models import Harm
from app.services import abuse
from tests.factories import Sender, Sent

Run = Callable[..., str]


@pytest.fixture
def run(app: Flask) -> Run:
    """One command; its output, whatever its exit code should be."""

    def run(*words: str, code: int = 0) -> str:
        told = app.test_cli_runner().invoke(args=words)
        assert told.exit_code == code, told.output
        return told.output

    return run


def report(sent: Sent, **words: str) -> str:
    with sent.client.application.app_context():
        return str(abuse.report(sent.slug, Harm.PHISHING, **words))


def test_from_the_report_to_the_end_of_it(run: Run, sender: Sender) -> None:
    assert run("reports", "list") == "There are no reports.\n"
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
    assert run("reports", "close", number) == f"Report {number} was closed before.\n"
    assert run("reports", "list") == "There are no reports.\n"
    assert run("reports", "list", "--all").endswith(f"{link}  closed\n")
    assert run("transfers", "quarantine", sent.slug) == f"{link} was quarantined before.\n"
    assert run("transfers", "release", sent.slug) == f"{link} is released.\n"
    assert run("transfers", "release", sent.slug) == f"{link} was not quarantined.\n"
    assert sender.client.get(f"/d/{sent.slug}").status_code == 200


def test_others_words_do_not_steer_the_terminal(run: Run, sender: Sender) -> None:
    sent = sender.ready({"a\u202etxt.exe": b"1"}, title="\u202eevil\u2066")
    number = report(sent, message="a\u202eb\u2028c", contact="\u200fx")
    shown = run("reports", "show", number)
    assert "says     abc\n" in shown
    assert "file     atxt.exe" in shown
    assert not {char for char in shown if char != "\n" and not char.isprintable()}


def test_what_is_not_there_is_said_and_fails(run: Run, sender: Sender) -> None:
    sender.create()
    for words in (("show", "77"), ("close", "77")):
        assert "There is no report 77." in run("reports", *words, code=1)
    for verb in ("quarantine", "release"):
        assert "This link does not lead to anything." in run("transfers", verb, "x" * 32, code=1)
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
