"""`flask doctor`: says whether the installation works, and what to do where it does not."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import Flask
from flask.cli import with_appcontext

from app import addresses
from app.commands import Command
from app.services import doctor
from app.services.doctor import Check, Finding, Level
from app.words import counted

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILED: "red"}


def init_app(app: Flask) -> None:
    """Add the command."""
    app.cli.add_command(examine)


@click.command("doctor", cls=Command)
@click.option("--mail-to", metavar="ADDRESS", help="Also send a test mail there.")
@with_appcontext
def examine(mail_to: str | None) -> None:
    """Check whether everything works, and say what to do where it does not; repeatable.

    Exit code 1 if something failed; a warning alone is no failure. Writes small objects to the
    bucket and removes them again.
    """
    found: Counter[Level] = Counter()
    group = ""
    with _without_log():
        for check, finding in doctor.examine(doctor.checks(_address(mail_to)), _begin):
            _clear_line()
            if check.group != group:
                click.echo(f"{'' if not group else chr(10)}{check.group}")
                group = check.group
            click.echo(_line(check, finding))
            found[finding.level] += 1
    click.echo(f"\n{_summary(found)}")
    sys.exit(1 if found[Level.FAILED] else 0)


def _address(given: str | None) -> str | None:
    if given is None:
        return None
    try:
        return addresses.normalised(given)
    except addresses.NotAnAddress as error:
        raise click.UsageError("--mail-to must be a mail address.") from error


def _line(check: Check, finding: Finding) -> str:
    level = f"{finding.level.value:<8}"
    if colour := _COLOURS.get(finding.level):
        level = click.style(level, fg=colour)
    words = f"{check.name:<16}  {finding.said}"
    return f"  {words}" if finding.level is Level.FIGURE else f"  {level}  {words}"


def _summary(found: Counter[Level]) -> str:
    bad = [
        counted(found[level], one, many)
        for level, one, many in (
            (Level.FAILED, "check failed", "checks failed"),
            (Level.SKIPPED, "was skipped", "were skipped"),
            (Level.WARNING, "warning", "warnings"),
        )
        if found[level]
    ]
    return f"{', '.join(bad)}." if bad else "All is well."


def _begin(check: Check) -> None:
    """Show on a terminal what is being checked: it may take seconds."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K  {check.group}: {check.name} ...", err=True, nl=False)


def _clear_line() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)


@contextmanager
def _without_log() -> Iterator[None]:
    """Without what the checked parts log about their failures: the findings say the same."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
