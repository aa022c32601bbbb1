"""Searching for assets by the words of their names, types and tags, by type, by tag, by date."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, ColumnElement, Text, cast, func, select
from sqlalchemy.dialects.postgresql import TSQUERY

from app.db import db
from app.models import Asset, AssetVersion
from app.services import asset_words
from app.services.accounts import Caller
from app.services.assets import whole


@dataclass(frozen=True)
class Wanted:
    """What to search for; a field that is left empty does not matter."""

    text: str = ""
    content_type: str = ""
    tag: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Found:
    """A page of assets, each as its shown version, and how many there are in all."""

    versions: list[AssetVersion]
    total_count: int


def search(caller: Caller, wanted: Wanted, *, limit: int, offset: int) -> Found:
    """The caller's assets that match, newest first: one query for the page, one for the count."""
    conditions = [Asset.workspace_id == caller.workspace_id, *_conditions(wanted)]
    page = (
        whole(select(AssetVersion))
        .where(AssetVersion.number == Asset.shown_number, *conditions)
        .order_by(Asset.created_at.desc(), Asset.id.desc())
        .limit(limit)
        .offset(offset)
    )
    total = select(func.count()).select_from(Asset).where(Asset.shown_number > 0, *conditions)
    return Found(list(db.session.scalars(page)), db.session.scalar(total) or 0)


def _conditions(wanted: Wanted) -> Iterable[ColumnElement[bool]]:
    if wanted.text:
        yield Asset.search.op("@@")(cast(asset_words.query(wanted.text), TSQUERY))
    if wanted.content_type:
        yield _is_of_type(wanted.content_type)
    if wanted.tag:
        yield Asset.tags.op("@>")(cast([wanted.tag], ARRAY(Text)))
    if wanted.since is not None:
        yield Asset.created_at >= wanted.since
    if wanted.until is not None:
        yield Asset.created_at < wanted.until


def _is_of_type(kind: str) -> ColumnElement[bool]:
    """The condition that an asset has this type, ignoring case; "image" matches image/png too.

    Parameters such as "charset=utf-8" count only if `kind` has some.
    """
    kind = kind.lower()
    whole_type = func.lower(Asset.content_type)
    if ";" in kind:
        return whole_type == kind
    if "/" in kind:
        return func.rtrim(func.split_part(whole_type, ";", 1)) == kind
    return whole_type.startswith(f"{kind}/", autoescape=True)
