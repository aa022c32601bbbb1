"""A database as it was at an older release, for tests that migrate it."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from tests.lab.crasher import Crasher

NAME = "as_it_was"
UPLOADS = "SELECT key, state::text, etag FROM uploads ORDER BY key"


@dataclass
class Old:
    """A separate database, for `flask db upgrade` and `downgrade`."""

    engine: Engine
    process: Crasher

    def migrate(self, verb: str, to: str = "head") -> None:
        """Upgrade or downgrade in another process, as a deployment does."""
        assert self.process.run(verb, to) == 0

    def run(self, statement: str, **given: object) -> list[tuple[object, ...]]:
        """Run one statement and commit it; returns its rows."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), given)
            return [tuple(row) for row in result] if result.returns_rows else []
