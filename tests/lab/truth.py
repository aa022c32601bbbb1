"""What is really in the database and in the bucket, read directly, bypassing all faults."""

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
        """Run any SQL statement; returns its rows, if it has any."""
        connection = psycopg2.connect(self._database)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(query, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def states(self, sent: Iterable[Sent]) -> Counter[str]:
        """The number of these transfers in each state."""
        ids = [one.id for one in sent]
        return Counter(
            state
            for (state,) in self.rows(
                "SELECT state::text FROM transfers WHERE id = ANY(%s::uuid[])", ids
            )
        )

    def wait_until_ready(self, sent: Iterable[Sent], seconds: float) -> float:
        """Wait until all of these are READY; the seconds it took. AssertionError on timeout."""
        sent = list(sent)
        began = time.monotonic()
        while (states := self.states(sent)) != Counter({"READY": len(sent)} if sent else {}):
            assert time.monotonic() - began < seconds, states
            time.sleep(0.2)
        return time.monotonic() - began

    def wait_until_leased(self, sent: Sent, seconds: float) -> None:
        """Wait until a worker holds the transfer's lease; AssertionError on timeout."""
        query = "SELECT 1 FROM transfers WHERE id = %s AND lease_token IS NOT NULL"
        deadline = time.monotonic() + seconds
        while not self.rows(query, sent.id):
            assert time.monotonic() < deadline, "nobody is at work"
            time.sleep(0.05)

    def skip_waits(self) -> None:
        """Make everything that waits for its next try due now."""
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
        """The ids of all open multipart uploads in storage."""
        return {one["UploadId"] for one in self._open_uploads()}

    def open_keys(self) -> set[str]:
        """The keys of all open multipart uploads in storage."""
        return {one["Key"] for one in self._open_uploads()}

    def _open_uploads(self) -> list[dict[str, Any]]:
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
        return [one for page in pages for one in page.get("Uploads", [])]

    def head(self, key: str) -> dict[str, Any]:
        """Storage's HEAD response for one object."""
        return self._s3.head_object(Bucket=self._bucket, Key=key)

    def check(self, sent: Iterable[Sent], *, begun_in_vain: bool = False) -> None:
        """Assert that the bucket holds exactly the files of the READY transfers.

        The bytes of `sent` must be those that were sent. Every open multipart upload must have a
        row, unless some may have been `begun_in_vain`: those whose id could not be saved, because a
        response was lost or the database was down, are left to the hourly sweep.
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
