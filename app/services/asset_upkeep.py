"""The sweeps of assets: what comes by a form is kept, and what never comes is given up."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, update

from app import jobs, rows
from app.clock import db_now
from app.config import settings
from app.db import db, release, transaction
from app.errors import AppError, Outage
from app.models import AssetVersion, Upload, UploadState
from app.services import assets, uploads
from app.services.heartbeats import noted
from app.services.upkeep import LATE_BYTES, Tell, untold

log = logging.getLogger(__name__)

BATCH = 200
# When to check a form again: after a tenth of the time since the sender's last activity, but no
# sooner and no later than this.
SOONEST = timedelta(seconds=20)
LATEST = timedelta(minutes=10)


@noted
def confirm_posted(tell: Tell = untold) -> int:
    """Job: check whether what is expected by forms has come, and keep it; returns how many."""
    count = 0
    while batch := _claim_looks():
        for version in batch:
            count += _look_for(version)
            if jobs.stopping.is_set():
                return count
        tell("confirmed", count)
        if len(batch) < BATCH:
            break
    return count


@noted
def abandon_stale(tell: Tell = untold) -> int:
    """Job: give up versions without activity for the upload window; returns how many."""
    count = 0
    while True:
        with transaction():
            stale = (
                select(AssetVersion.id)
                .where(is_stale())
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
            found = db.session.scalars(stale).all()
        done = assets.abandon(found) if found else 0
        count += done
        tell("done", count)
        if len(found) < BATCH or not done or jobs.stopping.is_set():
            return count


def is_stale() -> ColumnElement[bool]:
    """The condition that a version's sender is inactive, and nothing sent can arrive any more.

    What may come by a form is waited for until the form has expired.
    """
    until = db_now() - timedelta(hours=settings.upload_window_in_hours) - uploads.NOTED_FOR
    may_come = (
        select(Upload.id)
        .where(Upload.key == AssetVersion.posted_key, Upload.urls_until > db_now() - LATE_BYTES)
        .exists()
    )
    return and_(
        AssetVersion.ready_at.is_(None),
        AssetVersion.last_activity_at <= until,
        ~may_come,
    )


def _claim_looks() -> Sequence[AssetVersion]:
    age = db_now() - AssetVersion.last_activity_at
    due = rows.take(
        AssetVersion,
        AssetVersion.ready_at.is_(None),
        AssetVersion.posted_key.is_not(None),
        AssetVersion.look_after <= db_now(),
        limit=BATCH,
        order_by=AssetVersion.look_after,
    )
    wait: Any = func.least(LATEST, func.greatest(SOONEST, age / 10))
    with transaction():
        ids = db.session.scalars(
            update(AssetVersion)
            .where(due)
            .values(look_after=db_now() + wait)
            .returning(AssetVersion.id)
            .execution_options(synchronize_session=False)
        ).all()
    found = assets.whole(select(AssetVersion)).where(
        AssetVersion.id.in_(ids), Upload.state == UploadState.OPEN
    )
    versions = db.session.scalars(found).all()
    release()
    return versions


def _look_for(version: AssetVersion) -> int:
    """Confirm one version: 1 if it is there. One that cannot be kept must not stop the others.

    An outage is raised, as it affects all of them.
    """
    try:
        return int(assets.confirm(version))
    except Outage:
        raise
    except AppError as error:
        log.warning("what came by a form was not kept: %s", error.title)
        return 0
