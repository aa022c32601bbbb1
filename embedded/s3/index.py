"""The SQLite index: its tables, its connections, its transactions."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS bucket (
    name TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    cors TEXT NOT NULL DEFAULT '',
    lifecycle TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS blob (
    name TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    md5 TEXT NOT NULL,
    crc32 TEXT,
    sha1 TEXT,
    sha256 TEXT
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS object (
    id INTEGER PRIMARY KEY,
    bucket TEXT NOT NULL REFERENCES bucket (name),
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    modified_at INTEGER NOT NULL,
    headers TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    checksum_type TEXT NOT NULL,
    checksum TEXT NOT NULL,
    upload_id TEXT NOT NULL,
    UNIQUE (bucket, key)
);

CREATE TABLE IF NOT EXISTS segment (
    object_id INTEGER NOT NULL REFERENCES object (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    blob TEXT NOT NULL REFERENCES blob (name),
    PRIMARY KEY (object_id, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segment_blob ON segment (blob);

CREATE TABLE IF NOT EXISTS upload (
    id TEXT PRIMARY KEY,
    bucket TEXT NOT NULL REFERENCES bucket (name) ON DELETE CASCADE,
    key TEXT NOT NULL,
    initiated_at INTEGER NOT NULL,
    headers TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    checksum_type TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS upload_key ON upload (bucket, key, id);

CREATE TABLE IF NOT EXISTS part (
    upload_id TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    blob TEXT NOT NULL REFERENCES blob (name),
    PRIMARY KEY (upload_id, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS part_blob ON part (blob);
"""


class Index:
    """One writer at a time, any number of readers, each on a snapshot."""

    def __init__(self, path: Path, sync: bool) -> None:
        self._path = path
        self._sync = sync
        self._write_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._writer = self._connect()
        self._writer.executescript(SCHEMA)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees a consistent snapshot of the index."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.rollback()
            self._idle.append(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, on disk when the `with` block has ended; rolled back on an error."""
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.rollback()
                raise

    def close(self) -> None:
        """Close every connection; none may be in use."""
        for connection in [*self._idle, self._writer]:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'OFF'}")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection
