"""Flask-Migrate, imported only when a migration is run.

It imports Alembic, which takes a fifth of a process's start-up time, and only migrations and the
tests use it.
"""

from typing import Any

import click
from flask import Flask

from app.commands import Group
from app.db import db


class _Late:
    """A placeholder for Flask-Migrate's settings, replaced by them on first access."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        from flask_migrate import Migrate

        Migrate(self._app, db)
        return getattr(self._app.extensions["migrate"], name)


class _LateGroup(Group):
    """A placeholder for Flask-Migrate's commands, which are imported when they are called."""

    def make_context(self, *given: Any, **extra: Any) -> click.Context:
        """The context of the real group, which tells of an outage as ours do."""
        from flask_migrate.cli import db as real

        told = Group(
            self.name, real.commands, params=real.params, callback=real.callback, help=real.help
        )
        return told.make_context(*given, **extra)


def init_app(app: Flask) -> None:
    """Add `flask db`, which finds the application's tables."""
    app.extensions["migrate"] = _Late(app)
    app.cli.add_command(_LateGroup("db", help="Perform database migrations."))
