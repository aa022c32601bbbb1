"""How a worker claims a row to make its picture, and what becomes of a claim that fails.

For pictures of a transfer's files and of assets' versions alike. What is looked at, and where the
pictures go, is in previewing.py and thumbnails.py.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_, update

from app import leases
from app.clock import db_now
from app.db import changed, discard, transaction
from app.gateways.darkroom import Interrupted
from app.gateways.s3_answers import SourceLost
from app.models import AssetVersion, Preview, Upload
from app.services import completing

Row = type[Preview] | type[AssetVersion]
# After this many failed or killed attempts there is no picture. Outages of storage or the database
# do not count.
MOST_ATTEMPTS = 3
# Longer than an attempt can take: reading from storage and decoding both have time limits.
CLAIM_SECONDS = 180
# How long to leave a row alone after an attempt that failed.
RETRY_SECONDS = 60


def is_unclaimed(row: Row) -> ColumnElement[bool]:
    """The condition that no worker is making the picture, and that it may be tried (again)."""
    return or_(row.claimed_until.is_(None), row.claimed_until < db_now())


def claim(row: Row, token: uuid.UUID) -> dict[str, Any]:
    """The values to write into a row that is unclaimed, in order to claim it."""
    return {
        "claim_token": token,
        "claimed_until": db_now() + timedelta(seconds=CLAIM_SECONDS),
        "attempt_count": row.attempt_count + 1,
    }


@contextmanager
def attempt(row: Row, is_ours: ColumnElement[bool], upload: Upload) -> Iterator[None]:
    """Try to make the picture; if that fails, give the claim back and raise what went wrong.

    `is_ours` finds the row while it has our token; `upload` is what is looked at. Nothing is raised
    if the process is to stop, or if the row is no longer ours: then its file has probably been
    deleted during the attempt. Nor if the object was copied anew: the next attempt finds it.
    """
    try:
        yield
    except BaseException as error:
        is_excused = isinstance(error, Interrupted) or leases.is_outage(error)
        was_ours = _give_back(row, is_ours, is_counted=not is_excused)
        if isinstance(error, Interrupted) or (isinstance(error, Exception) and not was_ours):
            return
        if isinstance(error, SourceLost) and completing.note_if_copied(upload):
            return
        raise


def _give_back(row: Row, is_ours: ColumnElement[bool], *, is_counted: bool) -> bool:
    """Let another attempt begin in a moment; False if the row was not ours any more."""
    discard()
    with transaction():
        given_back = changed(
            update(row)
            .where(is_ours)
            .values(
                claim_token=None,
                claimed_until=db_now() + timedelta(seconds=RETRY_SECONDS),
                attempt_count=row.attempt_count if is_counted else row.attempt_count - 1,
            )
            .execution_options(synchronize_session=False)
        )
    return given_back == 1
