"""A database for migrations, apart from the usual one."""

from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy import create_engine, make_url, text

from app.config import settings
from tests.lab.crasher import Crasher
from tests.migrations.database import NAME, Old


@pytest.fixture(scope="package")
def migrator_environ(environ: dict[str, str], app: Flask) -> dict[str, str]:
    """The environment with the separate database in place of the usual one."""
    url = make_url(settings.database_url).set(database=NAME)
    shown = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return {**environ, "DATABASE_URL": shown}


@pytest.fixture(scope="package")
def migrator(migrator_environ: dict[str, str]) -> Iterator[Crasher]:
    """The process that migrates; one for all tests, because starting it takes longest."""
    process = Crasher(migrator_environ)
    yield process
    process.close()


@pytest.fixture
def old(migrator: Crasher) -> Iterator[Old]:
    """The separate database, newly created and without tables."""
    server = create_engine(settings.database_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {NAME}"))
    engine = create_engine(make_url(settings.database_url).set(database=NAME))
    yield Old(engine, migrator)
    engine.dispose()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {NAME} WITH (FORCE)"))
    server.dispose()
