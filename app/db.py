"""The database session and its transactions: nothing else commits or rolls back.

`transaction()` is re-entrant and the outermost block commits; `after_commit()` runs something once
that commit is durable; `release()` ends a read before a network call; `discard()` rolls back after
a failure. Reads outside transaction() are autocommitted one by one: under READ COMMITTED each
statement sees what is committed by then anyway.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

from flask import current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    ClauseElement,
    Connection,
    CursorResult,
    Insert,
    MetaData,
    Table,
    UpdateBase,
    event,
    insert,
)
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction
from sqlalchemy.sql import Executable

from app import connections

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Base(DeclarativeBase):
    """Names every constraint by rule, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # SQLAlchemy allows any FromClause here; each of our models is mapped to a Table.
    __table__: ClassVar[Table]


# expire_on_commit=False: otherwise the next attribute touched after a commit or release()
# quietly opens another transaction, which would then be held across the network.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


@event.listens_for(db.session, "after_begin")
def _begin(session: Session, _: SessionTransaction, connection: Connection) -> None:
    """Autocommit a new connection outside transaction(): reads need no BEGIN and no COMMIT."""
    if not session.info.get("depth"):
        connections.read_only_so_far(connection)


def ask(statement: Executable, values: Mapping[str, Any]) -> CursorResult[Any]:
    """Run a Core statement, bypassing the ORM, which costs more than half of a short query.

    For the queries of every request; build the statement once, with named bind parameters.
    """
    return db.session.connection().execute(statement, values)


def changed(statement: UpdateBase) -> int:
    """Run an INSERT, UPDATE or DELETE that returns no rows; returns the number of rows affected."""
    # Session.execute() is typed to return a Result, but for such a statement it is a CursorResult.
    done = cast(CursorResult[Any], db.session.execute(statement))
    return done.rowcount


def insert_now(row: Base) -> None:
    """INSERT a new row directly, bypassing the unit of work, which costs several times as much.

    Call in transaction(). The row does not join the session: later changes to it are not written,
    and values that PostgreSQL computes are not read back.
    """
    statement, names = _insert_into(type(row))
    plain: dict[str, Any] = {}
    computed: dict[str, Any] = {}
    for name, value in vars(row).items():
        if name in names:
            (computed if isinstance(value, ClauseElement) else plain)[name] = value
    ask(statement.values(computed) if computed else statement, plain)


@cache
def _insert_into(kind: type[Base]) -> tuple[Insert, frozenset[str]]:
    """The INSERT statement for a table, and the names of its columns."""
    return insert(kind).inline(), frozenset(kind.__table__.c.keys())


@contextmanager
def transaction() -> Iterator[None]:
    """Commit everything done in the block, or nothing.

    Nested blocks join the outermost one. A failure in an inner block dooms the whole transaction,
    even when an outer block swallows the exception: the commit then raises RuntimeError.
    """
    info = db.session.info
    depth = info["depth"] = info.get("depth", 0) + 1
    actions: list[Callable[[], object]] = []
    try:
        if depth == 1 and db.session().in_transaction():
            connections.in_transaction_from_now(db.session.connection())
        yield
        if depth == 1:
            if info.get("doomed"):
                raise RuntimeError("an inner transaction() failed and its error was swallowed")
            db.session.commit()
            actions = info.pop("after_commit", [])
    except BaseException:
        info["doomed"] = True
        if depth == 1:
            db.session.rollback()
            info.pop("after_commit", None)
        raise
    finally:
        info["depth"] = depth - 1
        if depth == 1:
            info.pop("doomed", None)
    for action in actions:
        _attempt(action)


def after_commit(action: Callable[[], object]) -> None:
    """Run `action` once the current transaction is durable; never if it rolls back.

    Outside a transaction it runs immediately. Its failure is logged, not raised: the rows are the
    truth, and a sweep queues the work again.
    """
    info = db.session.info
    if not info.get("depth"):
        _attempt(action)
        return
    info.setdefault("after_commit", []).append(action)


def release() -> None:
    """End the read transaction, so that none is open during a network call.

    Raises RuntimeError inside transaction().
    """
    if db.session.info.get("depth"):
        raise RuntimeError("release() inside transaction(): the network would hold its locks")
    # commit(), not rollback(): a rollback expires every object whatever expire_on_commit says.
    db.session.commit()


def in_own_session(act: Callable[P, T]) -> Callable[P, T]:
    """Wrap `act` for another thread, which gets a session of its own: one is never shared."""
    context = current_app.app_context

    def run(*args: P.args, **named: P.kwargs) -> T:
        with context():
            return act(*args, **named)

    return run


def discard() -> None:
    """Roll the session back after a failure, so that it can be used again."""
    db.session.rollback()


def is_away(error: BaseException) -> bool:
    """Whether PostgreSQL could not be reached, or takes nothing regardless of the statement.

    A statement that PostgreSQL cancelled, for a timeout or a deadlock, does not count.
    """
    if not isinstance(error, OperationalError | InterfaceError | InternalError):
        return False
    code = getattr(error.orig, "pgcode", None)
    if code is None:  # no answer
        return not isinstance(error, InternalError)
    # The connection or the server is ending; no room, no connection left; all is read-only.
    return code.startswith(("08", "57P")) or code in ("53100", "53300", "25006")


def reason_of(error: BaseException) -> str:
    """What PostgreSQL or its driver said, in one line: the others quote the statement or a row."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def end_session(error: BaseException | None = None) -> None:
    """Roll the session's transaction back at the end of the app context, before it is closed.

    If that fails, the connection is dead and the transaction with it: the response stands.
    """
    if not db.session.registry.has():
        return
    # A rollback expires every object in the session; expunged ones keep what they have read.
    db.session.expunge_all()
    try:
        db.session.rollback()
    except DBAPIError as lost:
        log.warning("a session ended without its connection: %s", type(lost.orig).__name__)
        db.session().invalidate()


def _attempt(action: Callable[[], object]) -> None:
    try:
        action()
    except Exception:
        log.exception("an action after the commit failed; the sweep will repeat it")
