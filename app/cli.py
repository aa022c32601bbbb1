"""The operator's commands: `flask release`, `storage`, `database`, `keys` and `sweep`.

The commands for reported links are in abuse_cli.py, those for bounced mail in mail_cli.py, and
`flask doctor` is in doctor_cli.py.
"""

import sys
import time
from functools import partial

import click
from flask import Flask
from flask.cli import with_appcontext

from app import abuse_cli, doctor_cli, mail_cli
from app.commands import Command, Group
from app.config import settings
from app.errors import Invalid, NotFound, Unavailable
from app.extensions import storage
from app.models import Scope
from app.services import accounts, bucket_rules, dry_runs, own_keys, senders
from app.services.doctor import Level, backing_services
from app.services.doctor.findings import Finding
from app.services.dry_runs import Figure, Sweep
from app.services.upkeep import UnreasonableShare
from app.words import counted

storage_commands = Group("storage", help="The bucket that holds the files.")
# What the operator has to do where a store does not accept one of our rules.
BY_HAND = {
    "CORS": "Its own settings must admit browsers from {origins}: PUT, POST, GET and HEAD with any "
    "header, and ETag exposed. MinIO does by MINIO_API_CORS_ALLOW_ORIGIN.",
    "lifecycle": "Beeline's own sweep removes what is left of uploads. See that the store does not "
    "abort uploads that are still on their way: MinIO does after a day (stale_uploads_expiry).",
}


database_commands = Group("database", help="The database.")
key_commands = Group("keys", help="The API keys of programs.")


def init_app(app: Flask) -> None:
    """Add the commands."""
    app.cli.add_command(storage_commands)
    app.cli.add_command(database_commands)
    app.cli.add_command(key_commands)
    app.cli.add_command(sweep)
    app.cli.add_command(make_ready)
    abuse_cli.init_app(app)
    doctor_cli.init_app(app)
    mail_cli.init_app(app)


@key_commands.command("issue")
@click.option(
    "--workspace", required=True, help="The workspace of the key; created if it does not exist."
)
@click.option("--name", required=True, help="What the key is for, so that you recognise it later.")
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope]),
    default=Scope.WRITE.value,
    show_default=True,
)
def issue_key(workspace: str, name: str, scope: str) -> None:
    """Create an API key and print it; it is shown only this once."""
    try:
        issued = accounts.issue_key(workspace, name, Scope(scope))
    except Invalid as error:
        raise click.ClickException(error.title) from error
    click.echo(
        f'The key "{name}" of {workspace} has the scope {scope}. Keep it now: it is not stored.',
        err=True,
    )
    click.echo(issued.text)


@key_commands.command("list")
def list_keys() -> None:
    """List all keys: prefix, scope, workspace or whose own key it is, name, last use, and whether
    they are revoked, or refused because their owner may not send any more.
    """
    for row in accounts.all_keys():
        email = row.workspace.email
        whose = f"own key of {email}" if email else row.workspace.name
        used = f"used {row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
        ended = f"  revoked {row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else ""
        if not ended and email and not senders.may_have_keys(email):
            ended = "  refused"
        click.echo(f"{row.prefix}  {row.scope:<5}  {whose}: {row.name}  {used}{ended}")


@key_commands.command("revoke")
@click.argument("prefix")
def revoke_key(prefix: str) -> None:
    """Revoke the key with this prefix, immediately and for good; repeatable."""
    try:
        was_good = accounts.revoke_key("_".join(prefix.split("_", 2)[:2]))
    except NotFound as error:
        raise click.ClickException(error.title) from error
    click.echo("Revoked." if was_good else "It was already revoked.")


@key_commands.command("clear")
@click.argument("address")
@click.confirmation_option(prompt="Delete for good all assets and small files of this person?")
def clear_keys(address: str) -> None:
    """Revoke the keys that the owner of ADDRESS has made for themselves, and delete the assets and
    small files that were kept with them. Transfers stay. Repeatable.
    """
    progress = _Progress("Deleting")
    try:
        done = own_keys.clear(senders.checked(address, "address"), progress)
    except (Invalid, NotFound) as error:
        raise click.ClickException(error.title) from error
    progress.end()
    revoked = counted(done.keys, "key", "keys")
    deleted = counted(done.assets, "asset", "assets")
    files = counted(done.files, "small file", "small files")
    click.echo(f"Revoked {revoked}; deleted {deleted} and {files}.")


@database_commands.command("check")
def check_database() -> None:
    """Fail if Beeline may open more database connections than PostgreSQL allows."""
    click.echo(_said_unless_failed(backing_services.enough_connections()))


def _said_unless_failed(found: Finding) -> str:
    """What was found; raises ClickException if it is a failure."""
    if found.level is Level.FAILED:
        raise click.ClickException(found.said)
    return found.said


@storage_commands.command("setup")
def setup_storage() -> None:
    """Create the bucket if missing and set its CORS and lifecycle rules; repeatable."""
    origins = ", ".join(settings.origins)
    for name in storage.setup(settings.origins, bucket_rules.ABORT_AFTER_DAYS):
        todo = BY_HAND[name].format(origins=origins)
        click.echo(f"This storage does not accept {name} rules. {todo}", err=True)
    click.echo(f"Bucket {settings.s3_bucket} is ready for {origins}.")
    click.echo(f"Checksums of what is sent: {storage.ask_checksums()}.")


@click.command("release", cls=Command)
@with_appcontext
@click.pass_context
def make_ready(context: click.Context) -> None:
    """Migrate, check the database and set up the bucket before a new version starts; repeatable."""
    # All in one process, because each takes a second to start. Imported here, because only this
    # command needs it.
    from flask_migrate import upgrade

    upgrade()
    context.invoke(check_database)
    context.invoke(setup_storage)
    _look_for_redis()


def _look_for_redis() -> None:
    """Warn if Redis does not answer. The release goes on: the work waits in the database."""
    found = backing_services.redis()
    if found.level is Level.FAILED:
        click.echo(found.said, err=True)


@click.command("sweep", cls=Command)
@click.option("--dry-run", is_flag=True, help="Only report what each sweep would do.")
@click.option("--force", is_flag=True, help="Remove even an unreasonable share of the bucket.")
@with_appcontext
def sweep(dry_run: bool, force: bool) -> None:
    """Run every sweep now, in order; repeatable. Exit code 1 if one refused or failed."""
    troubles = [trouble for one in dry_runs.SWEEPS if (trouble := _sweep(one, dry_run, force))]
    if dry_run:
        click.echo("Nothing was changed.")
    sys.exit(1 if troubles and not dry_run else 0)


def _sweep(one: Sweep, dry_run: bool, force: bool) -> str | None:
    """Run one sweep or its dry run, and print a line about it; returns what went wrong, or None."""
    progress = _Progress(one.about)
    trouble = None
    try:
        if dry_run:
            figure = one.look(progress)
        else:
            run = partial(one.run, force=force) if one.may_refuse else one.run
            figure = Figure(run(progress) or 0)
    except (UnreasonableShare, Unavailable) as error:
        figure, trouble = None, str(error)
    progress.end()
    click.echo(f"{one.about:<46}{trouble or _told(figure)}")
    return trouble


def _told(figure: Figure | None) -> str:
    if figure is None:
        return ""
    size = "" if figure.size is None else f"  {figure.size:,} bytes"
    refused = "  a run would refuse; see --force" if figure.is_refused else ""
    return f"{figure.count:>10,}{size}{refused}{figure.remark}"


class _Progress:
    """Progress on standard error: in place on a terminal, otherwise a line every 10 s."""

    def __init__(self, about: str) -> None:
        self._about = about
        self._at_terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, what: str, count: int) -> None:
        now = time.monotonic()
        if now - self._last < (0.1 if self._at_terminal else 10):
            return
        self._last = now
        line = f"{self._about}: {count:,} {what}"
        click.echo(
            f"\r\033[K{line}" if self._at_terminal else line, err=True, nl=not self._at_terminal
        )

    def end(self) -> None:
        """Clear the progress line on a terminal, to make room for the result."""
        if self._at_terminal:
            click.echo("\r\033[K", err=True, nl=False)
