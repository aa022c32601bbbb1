"""Flask-Migrate, loaded when a migration is run and not before.

It brings Alembic, and that takes a fifth of all the time that our processes need to start; of all
of them only `flask db` and the tests ever use it.
"""

from typing import Any

import click
from flask import Flask

from app.db import db


class _Late:
    """Stands where Flask-Migrate leaves its settings, and makes way when they are looked at."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        from flask_migrate import Migrate

        Migrate(self._app, db)
        return getattr(self._app.extensions["migrate"], name)


class _LateCommand(click.Command):
    """Stands where Flask-Migrate puts its commands, and makes way when they are called."""

    def make_context(self, *given: Any, **extra: Any) -> click.Context:
        """The context of the command that comes in its place."""
        from flask_migrate.cli import db as commands

        context: click.Context = commands.make_context(*given, **extra)
        return context


def init_app(app: Flask) -> None:
    """Add `flask db`, which finds the application's tables."""
    app.extensions["migrate"] = _Late(app)
    app.cli.add_command(_LateCommand("db", help="Perform database migrations."))
