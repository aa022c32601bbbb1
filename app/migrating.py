"""Flask-Migrate, loaded when a migration is run and not before.

It brings Alembic, and that takes a fifth of all the time that our processes need to start; of all
of them only `flask db` and the tests ever use it.
"""

from typing import Any

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


def init_app(app: Flask) -> None:
    """Let `flask db` find the application's tables; the command itself comes with the package."""
    app.extensions["migrate"] = _Late(app)
