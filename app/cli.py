"""`flask storage ...`: what an operator runs by hand or at release."""

import click
from flask import Flask
from flask.cli import AppGroup

from app.config import settings
from app.extensions import storage

storage_commands = AppGroup("storage", help="The bucket that holds the files.")


def init_app(app: Flask) -> None:
    """Add the commands."""
    app.cli.add_command(storage_commands)


@storage_commands.command("setup")
def setup_storage() -> None:
    """Create the bucket if missing and set its CORS and lifecycle rules; repeatable."""
    # The backstop must outlast any upload: its window, renewed by progress, and then some.
    days = max(7, 2 * settings.upload_window_in_hours // 24 + 7)
    storage.setup(settings.origins, abort_after_days=days)
    click.echo(f"Bucket {settings.s3_bucket} is ready for {', '.join(settings.origins)}.")
