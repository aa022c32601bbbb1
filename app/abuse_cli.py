"""`flask reports ...` and `flask transfers ...`: what an operator does about a reported link."""

from datetime import UTC, datetime

import click
from flask import Flask
from flask.cli import AppGroup

from app import links
from app.dispositions import without_marks
from app.errors import NotFound
from app.models import Transfer
from app.services import abuse
from app.services.transfers import files_of

report_commands = AppGroup("reports", help="What people have reported about links.")
transfer_commands = AppGroup("transfers", help="Transfers, as their links name them.")

# A link's last piece may begin with a hyphen, and is no option.
_ANY_WORD = {"ignore_unknown_options": True}
# So many file names are told of a transfer.
MOST_NAMES = 50


def init_app(app: Flask) -> None:
    """Add the commands."""
    app.cli.add_command(report_commands)
    app.cli.add_command(transfer_commands)


@report_commands.command("list")
@click.option("--all", "handled_too", is_flag=True, help="Those that were closed, too.")
def list_reports(handled_too: bool) -> None:
    """A line for each open report, the oldest first."""
    found = abuse.reports(handled_too=handled_too)
    for report, transfer in found:
        closed = "  closed" if report.handled_at else ""
        click.echo(
            f"{report.id:>6}  {_time(report.created_at)}  {report.reason:<9}  "
            f"{_standing(transfer):<12}  {links.transfer_url(transfer.slug)}{closed}"
        )
    if not found:
        click.echo("There are no reports.")


@report_commands.command("show")
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
def show_report(number: int) -> None:
    """All that was reported, and what the link holds."""
    try:
        report, transfer = abuse.report_of(number)
    except NotFound as error:
        raise click.ClickException(error.title) from error
    files = files_of(transfer.id, with_coming=True)
    _tell("report", f"{report.id}, {report.reason}, {_time(report.created_at)}")
    _tell("closed", _time(report.handled_at) if report.handled_at else "no")
    _tell("from", report.contact or "somebody who left no address")
    for line in report.message.split("\n"):
        _tell("says", line)
    _tell("link", links.transfer_url(transfer.slug))
    _tell("state", f"{_standing(transfer)}, {transfer.download_count:,} downloads")
    _tell("reports", f"{abuse.open_count(transfer.id):,} open about this link")
    _tell("title", transfer.title)
    for line in transfer.message.split("\n"):
        _tell("message", line)
    for file in files[:MOST_NAMES]:
        _tell("file", f"{file.path}  {file.size:,} {'byte' if file.size == 1 else 'bytes'}")
    if len(files) > MOST_NAMES:
        _tell("file", f"and {len(files) - MOST_NAMES:,} more")


@report_commands.command("close")
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
def close_report(number: int) -> None:
    """Note that a report has been dealt with; repeatable."""
    try:
        is_closed = abuse.close(number)
    except NotFound as error:
        raise click.ClickException(error.title) from error
    click.echo(f"Report {number} {'is closed' if is_closed else 'was closed before'}.")


@transfer_commands.command("quarantine", context_settings=_ANY_WORD)
@click.argument("link")
def quarantine_transfer(link: str) -> None:
    """Stop a link at once, for everybody; repeatable. LINK may be its last piece alone."""
    transfer = _found(link)
    is_new = abuse.quarantine(transfer.id)
    _say(transfer, "is quarantined" if is_new else "was quarantined before")
    if count := abuse.open_count(transfer.id):
        click.echo(f"Open reports about it: {count:,}. Close each with `flask reports close`.")


@transfer_commands.command("release", context_settings=_ANY_WORD)
@click.argument("link")
def release_transfer(link: str) -> None:
    """End a quarantine; repeatable. LINK may be its last piece alone."""
    transfer = _found(link)
    is_new = abuse.lift_quarantine(transfer.id)
    _say(transfer, "is released" if is_new else "was not quarantined")


def _found(link: str) -> Transfer:
    try:
        return abuse.find(link)
    except NotFound as error:
        raise click.ClickException(error.title) from error


def _say(transfer: Transfer, what: str) -> None:
    click.echo(f"{links.transfer_url(transfer.slug)} {what}.")


def _standing(transfer: Transfer) -> str:
    return "quarantined" if transfer.quarantined_at else transfer.state


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _tell(name: str, words: str) -> None:
    """One line; others' words cannot steer the terminal."""
    if words:
        click.echo(f"{name:<8} {without_marks(words)}")
