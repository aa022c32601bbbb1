"""Records the calls to storage and AWS, the sessions idle in transaction during them, and what
PostgreSQL is sent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.client import BaseClient
from flask import Flask
from sqlalchemy import create_engine, event, text

from app.config import settings
from app.db import db
from app.extensions import storage

_IDLE = text(
    "SELECT query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    " AND datname = current_database()"
)


class Watch:
    """`asked` has the name of each call, `idle` the last query of each idle session found then."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.idle: list[str] = []
        self._engine = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")

    def begin(self, patch: pytest.MonkeyPatch) -> None:
        """Watch boto3's calls, and those that storage makes without boto3."""
        call, opener = BaseClient._make_api_call, storage._clients.opener

        def watched_call(client: Any, operation: str, given: dict[str, Any]) -> Any:
            return self._watched(operation, call)(client, operation, given)

        patch.setattr(BaseClient, "_make_api_call", watched_call)
        patch.setattr(storage, "_get", self._watched("GetObject", storage._get))
        patch.setattr(storage, "_put", self._watched("UploadPart", storage._put))
        opened = self._watched("CreateMultipartUpload by ourselves", opener._post)
        patch.setattr(opener, "_post", opened)

    def end(self) -> None:
        """Close the connection that looks for idle sessions."""
        self._engine.dispose()

    def _watched(self, name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any) -> Any:
            with self._engine.connect() as connection:
                self.idle.extend(f"{name}: {query}" for query in connection.scalars(_IDLE))
            self.asked.append(name)
            return ask(*given)

        return watched


@contextmanager
def statements(app: Flask) -> Iterator[list[str]]:
    """The statements that PostgreSQL is sent in the block, without the test's own savepoints."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        if "SAVEPOINT" not in statement:
            sent.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)
