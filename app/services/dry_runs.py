"""Counts what every sweep would find now, without changing anything: the dry run's figures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, and_, func, or_, select

from app import lifecycle
from app.config import settings
from app.db import Base, db, release
from app.models import AssetVersion, Batch, OutboxMail, SmallFile, Transfer, Upload
from app.services import (
    asset_upkeep,
    batches,
    mail_topic,
    news,
    outbox,
    previews,
    removal,
    small_files,
    tombstones,
    upkeep,
)
from app.services.transfers import uploads_of
from app.services.upkeep import Tell


@dataclass(frozen=True)
class Figure:
    """How many items a sweep would deal with, their bytes, and whether it would refuse."""

    count: int
    size: int | None = None
    is_refused: bool = False
    # A further finding, in words.
    remark: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep as the command line shows it: what it is about, its run and its dry run."""

    about: str
    run: Callable[..., int | None]
    look: Callable[[Tell], Figure]
    may_refuse: bool = False


def _to_expire(tell: Tell) -> Figure:
    return Figure(_count(lifecycle.is_due()))


def _to_delete(tell: Tell) -> Figure:
    return Figure(_count(lifecycle.is_past_grace()))


def _abandoned(tell: Tell) -> Figure:
    dropped = select(func.count()).select_from(Batch).where(batches.is_abandoned())
    return Figure(_count(upkeep.is_abandoned()) + (db.session.scalar(dropped) or 0))


def _unconfirmed(tell: Tell) -> Figure:
    return Figure(_count(small_files.is_given_up(), SmallFile))


def _stale(tell: Tell) -> Figure:
    return Figure(_count(asset_upkeep.is_stale(), AssetVersion))


def _to_forget(tell: Tell) -> Figure:
    will_be = and_(_is_ending(), tombstones.is_not_needed())
    return Figure(_count(or_(tombstones.is_to_forget(), will_be)))


def _to_drop(tell: Tell) -> Figure:
    return Figure(_count(tombstones.is_over()))


def _stuck(tell: Tell) -> Figure:
    return Figure(_count(upkeep.is_stuck()))


def _to_remove(tell: Tell) -> Figure:
    """Uploads to be removed, and those of transfers that earlier sweeps would delete."""
    ending, pictures = select(Transfer.id).where(_is_ending()), previews.of_ending(_is_ending())
    forms = small_files.uploads_of(small_files.is_given_up())
    is_ending = and_(
        or_(Upload.id.in_(uploads_of(ending)), Upload.id.in_(pictures), Upload.id.in_(forms)),
        removal.is_kept(),
    )
    count, size = db.session.execute(
        select(func.count(), func.coalesce(func.sum(Upload.size), 0)).where(
            or_(upkeep.is_removable(), is_ending)
        )
    ).one()
    release()
    return Figure(count, int(size))


def _news(tell: Tell) -> Figure:
    return Figure(news.count_due())


def _mails_to_send(tell: Tell) -> Figure:
    """Mails that wait, and those that an earlier sweep would queue."""
    waiting = _count(outbox.is_to_send(), OutboxMail) if settings.sends_mail else 0
    return Figure(waiting + news.count_due())


def _mails_to_publish(tell: Tell) -> Figure:
    return Figure(_count(mail_topic.is_to_publish(), OutboxMail))


def _to_unname(tell: Tell) -> Figure:
    return Figure(_count(news.is_to_unname()))


def _unknown_uploads(tell: Tell) -> Figure:
    found = upkeep.find_unknown_uploads(tell)
    is_refused = upkeep.is_unreasonable(len(found.strangers), found.listed_count)
    return Figure(len(found.unknown), is_refused=is_refused)


def _orphans(tell: Tell) -> Figure:
    found = upkeep.find_orphans(tell)
    is_refused = upkeep.is_unreasonable(found.orphan_count, found.listed_count)
    lost = f"  {found.lost_count:,} complete uploads have no object" if found.lost_count else ""
    return Figure(found.orphan_count, found.orphan_size, is_refused, lost)


def _is_ending() -> ColumnElement[bool]:
    """The condition that one of the first sweeps would delete the transfer."""
    return or_(lifecycle.is_past_grace(), upkeep.is_abandoned())


def _count(condition: ColumnElement[bool], of: type[Base] = Transfer) -> int:
    count = db.session.scalar(select(func.count()).select_from(of).where(condition))
    release()
    return count or 0


# In the order of a run: later sweeps remove what earlier ones end.
SWEEPS = (
    Sweep("transfers past their date to expire", upkeep.expire_due, _to_expire),
    Sweep("expired transfers past their grace to delete", upkeep.delete_expired, _to_delete),
    Sweep("abandoned transfers and batches to delete", upkeep.delete_abandoned, _abandoned),
    Sweep("small files that never came to delete", small_files.delete_unconfirmed, _unconfirmed),
    Sweep("abandoned uploads of assets to give up", asset_upkeep.abandon_stale, _stale),
    Sweep("uploads whose bytes are to be removed", upkeep.remove_bytes, _to_remove),
    Sweep("deleted transfers to forget", tombstones.forget_deleted, _to_forget),
    Sweep("tombstones to drop", tombstones.drop_tombstones, _to_drop),
    Sweep("stuck transfers to queue again", upkeep.requeue_stuck, _stuck),
    Sweep("deleted transfers whose people to forget", news.forget, _to_unname),
    Sweep("reminders and warnings to queue", news.queue_news, _news),
    Sweep("mails to hand over", outbox.send_due, _mails_to_send),
    Sweep("mails to tell the topic of", mail_topic.publish_due, _mails_to_publish),
    Sweep(
        "multipart uploads that no row knows", upkeep.abort_unknown_uploads, _unknown_uploads, True
    ),
    Sweep(
        "objects that no row wants",
        partial(upkeep.remove_orphans, in_turns=False),
        _orphans,
        True,
    ),
)
