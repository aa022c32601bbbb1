"""The commands and groups of `flask`, which say in one line what they need and do not get."""

import click
from flask.cli import AppGroup

from app.db import is_away
from app.errors import Unavailable
from app.services.doctor import backing_services, bucket


class Command(click.Command):
    """A command that fails with one line where the database or storage does not answer.

    Anything else that it raises is a fault of ours and keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> object:
        """Run it; raises click.ClickException, which says what is away and what to do."""
        try:
            return super().invoke(ctx)
        except Unavailable as error:
            raise click.ClickException(bucket.what_to_do_about(error)) from error
        except Exception as error:
            if not is_away(error):
                raise
            raise click.ClickException(backing_services.without_database(error)) from error


class Group(Command, AppGroup):
    """A group of such commands; each of them runs in an application context."""
