"""`flask reports|transfers|requests|blocklist ...`: what an operator does about a reported link."""

import hashlib
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click
from flask import Flask

from app import links
from app.commands import Group
from app.crc32 import SIZE as CRC32_SIZE
from app.dispositions import without_marks
from app.errors import AppError, Gone, NotFound
from app.models import Board, FileRequest, Harm, Transfer
from app.services import abuse, blocklist, boards, file_requests
from app.services.transfers import files_of
from app.words import counted

report_commands = Group("reports", help="Reports about links.")
transfer_commands = Group("transfers", help="Transfers, named by their links.")
request_commands = Group("requests", help="File requests, named by their links.")
block_commands = Group("blocklist", help="Files that may not be sent from this site.")

# A link's slug may begin with a hyphen and must not be parsed as an option.
_ANY_WORD = {"ignore_unknown_options": True}
# Seconds between two looks at a worker's progress.
LOOK_SECONDS = 0.5
PIECE = 1024 * 1024

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_reason = click.option(
    "--reason",
    type=click.Choice([harm.value for harm in Harm]),
    default=Harm.OTHER.value,
    show_default=True,
)


def init_app(app: Flask) -> None:
    """Add the commands."""
    app.cli.add_command(report_commands)
    app.cli.add_command(transfer_commands)
    app.cli.add_command(request_commands)
    app.cli.add_command(block_commands)


@report_commands.command("list")
@click.option("--all", "handled_too", is_flag=True, help="Include closed reports.")
def list_reports(handled_too: bool) -> None:
    """List open reports, the oldest first, one line each."""
    found = abuse.reports(handled_too=handled_too)
    for report, about in found:
        closed = "  closed" if report.handled_at else ""
        click.echo(
            f"{report.id:>6}  {_time(report.created_at)}  {report.reason:<9}  "
            f"{_standing(about):<12}  {abuse.link_of(about)}{closed}"
        )
    if not found:
        click.echo("There are no reports." if handled_too else "There are no open reports.")


@report_commands.command("show")
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
def show_report(number: int) -> None:
    """Show a report in full, and what its link holds."""
    try:
        report, about = abuse.report_of(number)
    except NotFound as error:
        raise click.ClickException(error.title) from error
    _tell("report", f"{report.id}, {report.reason}, {_time(report.created_at)}")
    _tell("closed", _time(report.handled_at) if report.handled_at else "no")
    if report.file_sha256:
        _tell("from", f"the block list, {report.file_sha256.hex()}")
        _tell("found", report.message)
    else:
        _tell("from", report.contact or "someone who left no address")
        for line in report.message.split("\n"):
            _tell("says", line)
    _tell("link", abuse.link_of(about))
    if isinstance(about, Board):
        _tell_board(about)
    elif isinstance(about, FileRequest):
        _tell_request(about)
    else:
        _tell_transfer(about)


def _tell_request(request: FileRequest) -> None:
    asked = file_requests.one_of(request.email, request.id)
    _tell("state", _standing(request))
    _tell("open", f"until {_time(asked.ends_at)}" if asked.is_open else "no")
    _tell("reports", f"{abuse.open_count(request.id):,} open about this request")
    _tell("files to", request.email)
    _tell("title", request.title)
    for line in request.message.split("\n"):
        _tell("message", line)
    _tell("came", counted(asked.transfer_count, "transfer", "transfers"))


def _tell_board(board: Board) -> None:
    _tell("state", _standing(board))
    _tell("reports", f"{abuse.open_count(board.id):,} open about this board")
    _tell("title", board.name)
    for line in (board.description or "").split("\n"):
        _tell("message", line)
    items = boards.items_of(board.id, with_unseen=True)
    for item in items[: abuse.MOST_NAMES]:
        if item.file is None:
            _tell("leads to", item.url or "")
        else:
            _tell("file", f"{item.file.path}  {links.transfer_url(item.file.transfer.slug)}")
    if len(items) > abuse.MOST_NAMES:
        _tell("item", f"and {len(items) - abuse.MOST_NAMES:,} more")


def _tell_transfer(transfer: Transfer) -> None:
    _tell("state", f"{_standing(transfer)}, {transfer.download_count:,} downloads")
    _tell("reports", f"{abuse.open_count(transfer.id):,} open about this link")
    _tell("title", transfer.title)
    for line in transfer.message.split("\n"):
        _tell("message", line)
    files = files_of(transfer.id, with_coming=True)
    for file in files[: abuse.MOST_NAMES]:
        _tell("file", f"{file.path}  {file.size:,} {'byte' if file.size == 1 else 'bytes'}")
    if len(files) > abuse.MOST_NAMES:
        _tell("file", f"and {len(files) - abuse.MOST_NAMES:,} more")


@report_commands.command("close")
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
def close_report(number: int) -> None:
    """Close a report that has been dealt with; repeatable."""
    try:
        is_closed = abuse.close(number)
    except NotFound as error:
        raise click.ClickException(error.title) from error
    click.echo(f"Report {number} {'is closed' if is_closed else 'was already closed'}.")


@transfer_commands.command("quarantine", context_settings=_ANY_WORD)
@click.argument("link")
@click.option(
    "--with-what-came", is_flag=True, help="With a file request, stop what was sent there."
)
def quarantine_transfer(link: str, with_what_came: bool) -> None:
    """Stop a link immediately, for everyone; repeatable. LINK may be just its last part.

    Given a board's link, stops the board and all files on it. Given a file request's, stops what is
    sent there, and all news of it; what has come only with --with-what-came.
    """
    about = _found_any(link)
    if with_what_came and not isinstance(about, FileRequest):
        raise click.UsageError("--with-what-came is for the link of a file request.")
    _say(about, "is quarantined" if abuse.block(about) else "was already quarantined")
    if with_what_came:
        came = counted(abuse.block_what_came(about.id), "transfer", "transfers")
        click.echo(f"Quarantined with it, of what was sent there: {came}.")
    if count := abuse.open_count(about.id):
        click.echo(f"Open reports about it: {count:,}. Close each with `flask reports close`.")


@transfer_commands.command("release", context_settings=_ANY_WORD)
@click.argument("link")
def release_transfer(link: str) -> None:
    """End a quarantine; repeatable. LINK may be just its last part.

    Given a board's link, releases the board and the files that were stopped with it. Given a file
    request's, releases the request and what was stopped with it.
    """
    about = _found_any(link)
    _say(about, "is released" if abuse.unblock(about) else "was not quarantined")


@transfer_commands.command("block-files", context_settings=_ANY_WORD)
@click.argument("link")
@click.argument("paths", metavar="[FILE]...", nargs=-1)
@_reason
def block_files(link: str, paths: tuple[str, ...], reason: str) -> None:
    """Put a quarantined transfer's files on the block list; repeatable.

    All of them, or only those named, as `flask reports show` prints them. A `maker` reads each file
    once, and continues if this command is interrupted.
    """
    transfer = _found(link)
    try:
        count = blocklist.block_files(transfer.id, Harm(reason), paths)
        failed_count = _watch_reading(transfer)
    except Gone as error:
        raise click.ClickException("It was deleted.") from error
    except AppError as error:
        raise click.ClickException(error.title) from error
    if failed_count:
        raise click.ClickException(f"{_files(failed_count)} could not be read.")
    click.echo(f"{_files(count)} {'is' if count == 1 else 'are'} on the block list.")


def _watch_reading(transfer: Transfer) -> int:
    """Print the progress until all files are read; returns how many could not be."""
    whole_size = told = None
    with suppress(KeyboardInterrupt):
        while (now := blocklist.reading(transfer.id)).waiting_count:
            whole_size = max(whole_size or 0, now.left_size, 1)
            percent = 100 * (whole_size - now.left_size) // whole_size
            if percent != told:
                click.echo(f"{percent:>3} % read, {_files(now.waiting_count)} to go", err=True)
                told = percent
            time.sleep(LOOK_SECONDS)
        return now.failed_count
    raise click.ClickException(
        "A maker continues reading. To follow it, run the same command again."
    )


@request_commands.command("close", context_settings=_ANY_WORD)
@click.argument("link")
def close_request(link: str) -> None:
    """Let nothing more be sent at a file request's link; repeatable. LINK may be its last part."""
    slug = link.strip().rstrip("/").rpartition("/")[2]
    try:
        file_requests.close_link(slug)
    except NotFound as error:
        raise click.ClickException(error.title) from error
    click.echo(f"{links.request_url(slug)} is closed.")


@block_commands.command("add")
@click.argument("file", type=_FILE, required=False)
@click.option("--sha256", help="Of a file that you do not have, in hexadecimal; needs --size.")
@click.option("--size", type=click.IntRange(1, 2**63 - 1), help="Its size in bytes.")
@click.option("--crc32", help="If known: then fewer files have to be read.")
@_reason
def add_to_list(
    file: Path | None, sha256: str | None, size: int | None, crc32: str | None, reason: str
) -> None:
    """Block a file from being sent; repeatable. Give a local FILE, or --sha256 and --size."""
    if (file is None) == (sha256 is None) or (file is None) == (size is None):
        raise click.UsageError("Give a FILE, or --sha256 and --size.")
    if file and crc32:
        raise click.UsageError("--crc32 goes with --sha256: that of a FILE is computed.")
    sums: bytes | None
    if file is not None:
        known, size, sums = _sums_of(file)
    else:
        known = _hexadecimal(sha256 or "", 32)
        sums = _hexadecimal(crc32, CRC32_SIZE) if crc32 else None
    if not size:
        raise click.ClickException("An empty file cannot be blocked: all empty files are the same.")
    is_new = blocklist.add(known, size, Harm(reason), sums)
    click.echo(f"{known.hex()} {'is on the list' if is_new else 'was already on the list'}.")


@block_commands.command("list")
def show_list() -> None:
    """List blocked files: SHA-256, bytes, CRC32, and when and why each was added."""
    found = blocklist.entries()
    for one in found:
        crc32 = one.crc32.hex() if one.crc32 else "-" * 2 * CRC32_SIZE
        click.echo(
            f"{one.sha256.hex()}  {one.size:>15,}  {crc32}  {_time(one.created_at)}  {one.reason}"
        )
    if not found:
        click.echo("The block list is empty.")


@block_commands.command("remove")
@click.argument("sha256")
def remove_from_list(sha256: str) -> None:
    """Unblock a file; repeatable. What it has blocked stays blocked until you release it."""
    was_there = blocklist.remove(_hexadecimal(sha256, 32))
    click.echo(f"{sha256.lower()} {'is off the list' if was_there else 'was not on the list'}.")


def _hexadecimal(said: str, size: int) -> bytes:
    with suppress(ValueError):
        if len(given := bytes.fromhex(said)) == size:
            return given
    raise click.UsageError(f"{said!r} is not {2 * size} hexadecimal digits.")


def _sums_of(file: Path) -> tuple[bytes, int, bytes]:
    """SHA-256, size and CRC32 of a local file, which is read in pieces."""
    sha256, crc32, size = hashlib.sha256(), 0, 0
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            sha256.update(piece)
            crc32, size = zlib.crc32(piece, crc32), size + len(piece)
    return sha256.digest(), size, crc32.to_bytes(CRC32_SIZE, "big")


def _files(count: int) -> str:
    return counted(count, "file", "files")


def _found(link: str) -> Transfer:
    try:
        return abuse.find(link)
    except NotFound as error:
        raise click.ClickException(error.title) from error


def _found_any(link: str) -> abuse.Subject:
    try:
        return abuse.find_any(link)
    except NotFound as error:
        raise click.ClickException(error.title) from error


def _say(about: abuse.Subject, what: str) -> None:
    click.echo(f"{abuse.link_of(about)} {what}.")


def _standing(about: abuse.Subject) -> str:
    if about.quarantined_at:
        return "quarantined"
    if isinstance(about, FileRequest):
        return "request"
    return "board" if isinstance(about, Board) else about.state


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _tell(name: str, words: str) -> None:
    """Print one labelled line, without characters that could control the terminal."""
    if words:
        click.echo(f"{name:<8} {without_marks(words)}")
