"""Which state may follow which: move() with all pairs of states."""

import itertools

import pytest

from app import lifecycle
from app.clock import now
from app.db import db, transaction
from app.models import State, Transfer

pytestmark = pytest.mark.usefixtures("inside")
LEGAL = {
    ("INIT", "PROCESSING"), ("INIT", "DELETED"), ("PROCESSING", "INIT"), ("PROCESSING", "READY"),
    ("PROCESSING", "DELETED"), ("READY", "EXPIRED"), ("READY", "DELETED"), ("EXPIRED", "READY"),
    ("EXPIRED", "DELETED"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "to"), list(itertools.product(State, State)))
def test_every_pair(before: State, to: State) -> None:
    transfer = Transfer(
        slug=f"{before}-{to}",
        owner_token_hash=b"x" * 32,
        state=before,
        expires_at=now(),
        ready_at=now(),
        deleted_at=now(),
        expired_at=now(),
    )
    with transaction():
        db.session.add(transfer)
    with transaction():
        moved = lifecycle.move(transfer.id, to)
    assert moved == ((before.value, to.value) in LEGAL)
    assert transfer.state == (to if moved else before)


def test_the_losers_object_shows_what_the_row_says() -> None:
    """With SQLAlchemy's default it would show the state that the refused move wanted."""
    transfer = Transfer(slug="s", owner_token_hash=b"x" * 32, expires_at=now())
    with transaction():
        db.session.add(transfer)
    with transaction():
        lifecycle.move(transfer.id, State.DELETED)
    with transaction():
        assert not lifecycle.move(transfer.id, State.PROCESSING)
    assert transfer.state is State.DELETED
