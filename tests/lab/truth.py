"""What is really in the database and in the bucket, asked past everything that can go wrong."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import boto3
import psycopg2
from botocore.config import Config

from tests.lab.people import Sent


class Truth:
    """Looks at PostgreSQL and storage directly."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._database = environ["DATABASE_URL"]
        self._bucket = environ["S3_BUCKET"]
        self._in_vain: set[str] = set()
        self._s3 = boto3.client(
            "s3",
            endpoint_url=environ["S3_ENDPOINT_URL"],
            region_name=environ["S3_REGION"],
            aws_access_key_id=environ["S3_ACCESS_KEY_ID"],
            aws_secret_access_key=environ["S3_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask, or change, what the database holds."""
        connection = psycopg2.connect(self._database)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(query, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def states(self, sent: Iterable[Sent]) -> Counter[str]:
        """How many of these transfers are in which state."""
        ids = [one.id for one in sent]
        return Counter(
            state
            for (state,) in self.rows(
                "SELECT state::text FROM transfers WHERE id = ANY(%s::uuid[])", ids
            )
        )

    def wait_until_ready(self, sent: Iterable[Sent], seconds: float) -> float:
        """Until all of these are READY; how long that took. AssertionError when it is too long."""
        sent = list(sent)
        began = time.monotonic()
        while (states := self.states(sent)) != Counter({"READY": len(sent)} if sent else {}):
            assert time.monotonic() - began < seconds, states
            time.sleep(0.2)
        return time.monotonic() - began

    def wait_until_leased(self, sent: Sent, seconds: float) -> None:
        """Until somebody is at work on a transfer; AssertionError when it is too long."""
        query = "SELECT 1 FROM transfers WHERE id = %s AND lease_token IS NOT NULL"
        deadline = time.monotonic() + seconds
        while not self.rows(query, sent.id):
            assert time.monotonic() < deadline, "nobody is at work"
            time.sleep(0.05)

    def skip_waits(self) -> None:
        """Make as if whatever waits for its next try had waited long enough."""
        self.rows(
            "UPDATE transfers SET queued_at = queued_at - interval '1 minute' WHERE state = 'PROCESSING'"
        )
        self.rows(
            "UPDATE transfers SET lease_until = now()"
            " WHERE state = 'PROCESSING' AND lease_token IS NULL AND lease_until > now()"
        )

    def objects(self) -> set[str]:
        """Every key in the bucket."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return {one["Key"] for page in pages for one in page.get("Contents", [])}

    def open_uploads(self) -> set[str]:
        """The id of every multipart upload that storage holds open."""
        return {one["UploadId"] for one in self._open_uploads()}

    def open_keys(self) -> set[str]:
        """The keys that storage holds multipart uploads open for."""
        return {one["Key"] for one in self._open_uploads()}

    def _open_uploads(self) -> list[dict[str, Any]]:
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
        return [one for page in pages for one in page.get("Uploads", [])]

    def head(self, key: str) -> dict[str, Any]:
        """What storage says of one object."""
        return self._s3.head_object(Bucket=self._bucket, Key=key)

    def check(self, sent: Iterable[Sent], *, begun_in_vain: bool = False) -> None:
        """Nothing lost, nothing done twice: the bucket holds the files of READY transfers.

        All of them, and nothing else; the bytes of `sent` are those that were sent. No upload is
        open that no row knows, unless uploads may have been `begun_in_vain`: what was opened and
        could not be noted, because an answer was lost or the database away, is the hourly sweep's.
        """
        finished = {
            key
            for (key,) in self.rows(
                "SELECT u.key FROM transfers t JOIN files f ON f.transfer_id = t.id"
                " JOIN uploads u ON u.id = f.upload_id"
                " WHERE t.state = 'READY' AND u.state = 'COMPLETE'"
            )
        }
        assert self.objects() == finished
        living = {
            one
            for (one,) in self.rows(
                "SELECT s3_upload_id FROM uploads WHERE state = 'OPEN' AND s3_upload_id IS NOT NULL"
            )
        }
        unknown = self.open_uploads() - living - self._in_vain
        assert begun_in_vain or not unknown
        self._in_vain |= unknown
        for one in sent:
            for url, body, _ in one.urls:
                key = url.partition("?")[0].split("/", 4)[4]
                assert self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read() == body
