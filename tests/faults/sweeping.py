"""Rows and objects for the sweeps, put there as if sent long ago, and the bucket as it really is."""

import secrets
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskCliRunner
from sqlalchemy import func, insert, select

from app import clock, config
from app.config import MIB
from app.db import db, transaction
from app.extensions import storage
from app.models import File, Method, State, Transfer, Upload, UploadState

PART = 8 * MIB


@dataclass
class Bucket:
    """The bucket as an operator sees it, past the gateway: what lies below the test's prefix."""

    prefix: str
    client: Any = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.client, self.name = storage._clients.patient, config.settings.s3_bucket

    def plant(self, names: list[str], *, below: str | None = None) -> list[str]:
        """Put an object of 3 bytes at each name; the keys."""
        keys = [(self.prefix if below is None else below) + name for name in names]
        self._each(lambda key: self.client.put_object(Bucket=self.name, Key=key, Body=b"abc"), keys)
        return keys

    def begin(self, keys: list[str]) -> list[str]:
        """Open a multipart with one part at each key; their ids."""
        return self._each(self._begin, keys)

    def _begin(self, key: str) -> str:
        given = {"Bucket": self.name, "Key": key}
        upload_id = self.client.create_multipart_upload(**given)["UploadId"]
        self.client.upload_part(**given, UploadId=upload_id, PartNumber=1, Body=b"abc")
        return upload_id

    def _each(self, act: Callable[[str], Any], keys: list[str]) -> list[Any]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(act, keys))

    def keys(self, below: str | None = None) -> set[str]:
        """Every object below the prefix, or another one."""
        prefix = self.prefix if below is None else below
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return {one["Key"] for page in pages for one in page.get("Contents", [])}

    def open_ids(self, below: str | None = None) -> set[str]:
        """Every multipart below the prefix, or another one."""
        prefix = self.prefix if below is None else below
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return {one["UploadId"] for page in pages for one in page.get("Uploads", [])}


def ago(**time: float) -> Any:
    return clock.now() - timedelta(**time)


def rows(
    bucket: Bucket, state: State, count: int, *, begun: bool = False, **values: Any
) -> list[Upload]:
    """`count` transfers of one file each, with their bytes in storage, as if sent long ago.

    With `begun` the bytes are a part of an open multipart, else a whole object.
    """
    stamps = {"last_activity_at": ago(hours=30), "expires_at": ago(days=-1)} | values
    if state is State.READY:
        stamps["ready_at"] = ago(hours=29)
    keys = [f"{bucket.prefix}{secrets.token_hex(20)}" for _ in range(count)]
    upload_ids = bucket.begin(keys) if begun else [None] * count
    if not begun:
        bucket.plant(keys, below="")
    is_complete = state in (State.READY, State.EXPIRED)
    transfers, uploads, files = [], [], []
    for key, s3_id in zip(keys, upload_ids, strict=True):
        transfer_id, upload_id = uuid.uuid4(), uuid.uuid4()
        transfers.append(
            {
                "id": transfer_id,
                "slug": secrets.token_urlsafe(24),
                "owner_token_hash": b"x" * 32,
                "state": state,
                **stamps,
            }
        )
        uploads.append(
            {
                "id": upload_id,
                "key": key,
                "token": "t",
                "method": Method.MULTIPART if begun else Method.SINGLE,
                "s3_upload_id": s3_id,
                "size": PART + 1 if begun else 3,
                "part_size": PART,
                "state": UploadState.COMPLETE if is_complete else UploadState.OPEN,
                "etag": "e" if is_complete else None,
            }
        )
        files.append(
            {"transfer_id": transfer_id, "upload_id": upload_id, "position": 0, "path": "a"}
        )
    with transaction():
        for table, made in ((Transfer, transfers), (Upload, uploads), (File, files)):
            db.session.execute(insert(table), made)
    return list(db.session.scalars(select(Upload).where(Upload.key.in_(keys))))


def states() -> dict[State, int]:
    counted = db.session.execute(select(Transfer.state, func.count()).group_by(Transfer.state))
    found = dict(counted.all())
    db.session.commit()
    return found


def cli(app: Flask, *words: str) -> Any:
    return FlaskCliRunner(app).invoke(args=["sweep", *words])
