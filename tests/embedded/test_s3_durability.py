"""What the embedded S3 endpoint has confirmed stays stored, however the process ends."""

import hashlib
import http.client
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from embedded.s3.checksums import Digests
from embedded.s3.store import Draft, Precondition, Store
from tests.embedded.endpoint import Endpoint, MiB, exchange
from tests.embedded.watched import until

BUCKET = "durable"
PART = 5 * MiB
BASE = random.Random(7).randbytes(PART)


@pytest.fixture
def start(tmp_path):
    """Starts the endpoint on the same folder, as often as it is called."""
    running = []

    def start(**options):
        endpoint = Endpoint(tmp_path / "s3", **options)
        running.append(endpoint)
        return endpoint

    yield start
    for endpoint in running:
        if endpoint.process.poll() is None:
            endpoint.end(signal.SIGKILL)
        endpoint.process.stdout.close()


def part(number):
    """A part's bytes, different for each number."""
    return number.to_bytes(8, "big") + BASE[8:]


def part_url(s3, key, upload_id, number):
    params = {"Bucket": BUCKET, "Key": key, "UploadId": upload_id, "PartNumber": number}
    return s3.generate_presigned_url("upload_part", Params=params)


def open_upload(s3, key):
    s3.create_bucket(Bucket=BUCKET)
    return s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]


def send_parts(endpoint, s3, key, upload_id, numbers):
    """Start threads that PUT the parts until the endpoint dies.

    Returns them and the list to which they add the numbers of successful parts.
    """
    stored = []

    def send(share):
        with closing(endpoint.connect()) as connection:
            for number in share:
                url = part_url(s3, key, upload_id, number)
                try:
                    answer = exchange(connection, "PUT", url, part(number))
                except (OSError, http.client.HTTPException):
                    return
                if answer.status == 200:
                    stored.append(number)

    threads = [threading.Thread(target=send, args=(numbers[lane::4],)) for lane in range(4)]
    for thread in threads:
        thread.start()
    return stored, threads


def complete(s3, key, upload_id):
    held = s3.get_paginator("list_parts").paginate(Bucket=BUCKET, Key=key, UploadId=upload_id)
    parts = [
        {"PartNumber": item["PartNumber"], "ETag": item["ETag"]}
        for page in held
        for item in page["Parts"]
    ]
    listed = {"Parts": parts}
    s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload_id, MultipartUpload=listed)
    return [item["PartNumber"] for item in parts]


def sha256(s3, key):
    digest = hashlib.sha256()
    for piece in s3.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(MiB):
        digest.update(piece)
    return digest.hexdigest()


def known_blobs(endpoint):
    with closing(sqlite3.connect(endpoint.folder / "index.sqlite3")) as index:
        return {name for (name,) in index.execute("SELECT name FROM blob")}


def test_kill_9_loses_nothing_that_was_confirmed(start):
    endpoint = start(sync=True)
    s3 = endpoint.client()
    upload_id = open_upload(s3, "big")
    s3.put_object(Bucket=BUCKET, Key="finished", Body=b"finished")
    for round_number in range(2):
        stored, threads = send_parts(endpoint, s3, "big", upload_id, range(1, 400))
        until(lambda stored=stored: len(stored) >= 6, "some parts are stored")
        endpoint.end(signal.SIGKILL)
        for thread in threads:
            thread.join()
        s3.close()
        endpoint = start(sync=True)
        s3 = endpoint.client()
        held = s3.list_parts(Bucket=BUCKET, Key="big", UploadId=upload_id)["Parts"]
        sizes = {item["PartNumber"]: item["Size"] for item in held}
        assert set(stored) <= set(sizes), round_number
        assert set(sizes.values()) == {PART}
        assert endpoint.blobs() == known_blobs(endpoint)
    numbers = complete(s3, "big", upload_id)
    endpoint.end(signal.SIGKILL)
    s3.close()
    endpoint = start(sync=True)
    s3 = endpoint.client()
    expected = hashlib.sha256(b"".join(part(number) for number in numbers)).hexdigest()
    assert sha256(s3, "big") == expected
    assert s3.get_object(Bucket=BUCKET, Key="finished")["Body"].read() == b"finished"
    s3.close()


def test_unknown_blobs_are_removed_on_startup(start):
    endpoint = start()
    s3 = endpoint.client()
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"kept")
    s3.close()
    endpoint.end()
    kept = endpoint.blobs()
    (endpoint.folder / "blobs" / "ab" / ("ab" + "0" * 30)).write_bytes(b"orphan")
    endpoint = start()
    assert endpoint.blobs() == kept
    s3 = endpoint.client()
    assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"kept"
    s3.close()


def test_a_client_that_vanishes_leaves_nothing(start):
    endpoint = start()
    s3 = endpoint.client()
    upload_id = open_upload(s3, "k")
    url = urlsplit(part_url(s3, "k", upload_id, 1))
    head = (
        f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {PART}\r\n"
    )
    with socket.create_connection(("127.0.0.1", endpoint.port)) as connection:
        connection.sendall(head.encode() + b"\r\n" + bytes(MiB))
        until(endpoint.blobs, "the part is being written")
    until(lambda: not endpoint.blobs(), "the unfinished part is gone")
    assert "Parts" not in s3.list_parts(Bucket=BUCKET, Key="k", UploadId=upload_id)
    s3.close()


def test_a_stop_is_quick_and_lets_a_running_request_end(start):
    endpoint = start()
    s3 = endpoint.client()
    upload_id = open_upload(s3, "k")

    def send_slowly(number, pause):
        url = urlsplit(part_url(s3, "k", upload_id, number))
        connection = socket.create_connection(("127.0.0.1", endpoint.port), timeout=10)
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 9\r\n"
        connection.sendall(head.encode() + b"\r\n1234")
        time.sleep(pause)
        return connection

    stuck, slow = send_slowly(1, 0), send_slowly(2, 0.3)
    begun = time.monotonic()
    threading.Timer(0.3, lambda: slow.sendall(b"56789")).start()
    assert endpoint.end() == 0
    assert time.monotonic() - begun < 3
    assert slow.recv(13) == b"HTTP/1.1 200 "
    stuck.close()
    slow.close()
    s3.close()
    s3 = start().client()
    held = s3.list_parts(Bucket=BUCKET, Key="k", UploadId=upload_id)["Parts"]
    assert [item["PartNumber"] for item in held] == [2]
    s3.close()


def test_a_folder_belongs_to_one_process(start):
    endpoint = start()
    second = start()
    assert second.line == ""
    assert second.process.wait(timeout=10) == 1
    assert endpoint.process.poll() is None


def test_memory_does_not_grow_with_the_bytes_transferred(start):
    endpoint = start()
    s3 = endpoint.client()
    upload_id = open_upload(s3, "big")
    stored, threads = send_parts(endpoint, s3, "big", upload_id, range(1, 81))
    for thread in threads:
        thread.join()
    assert sorted(stored) == list(range(1, 81))
    assert complete(s3, "big", upload_id) == list(range(1, 81))
    digest = hashlib.sha256()
    for number in range(1, 81):
        digest.update(part(number))
    assert sha256(s3, "big") == digest.hexdigest()
    assert endpoint.memory() < 80
    s3.close()


def test_deleting_a_thousand_objects_takes_as_many_statements_as_one(tmp_path):
    store = Store(tmp_path / "s3", sync=False)
    store.create_bucket(BUCKET, "us-east-1")
    keys = [f"{number} <&> é\U0001f41d'\"" for number in range(1000)]
    with store.new_blob() as writer:
        blob = writer.seal(Digests(set()))
        made = store.put_object(BUCKET, "kept", Draft(blob.md5, {}), writer, blob, Precondition())
    for key in keys:  # all share one blob, which must be kept until the last one is deleted
        draft = Draft(made.etag, {})
        store.copy_object((BUCKET, "kept"), BUCKET, key, lambda _, it=draft: it, Precondition())

    def statements(wanted):
        asked = []
        store._index._writer.set_trace_callback(asked.append)
        store.delete_objects(BUCKET, wanted)
        store._index._writer.set_trace_callback(None)
        return set(asked)  # A set, because the trace repeats a statement for each cascaded row.

    one = statements(keys[:1])
    assert len(statements([*keys, *keys[:5], "never"])) == len(one)
    page = store.list_objects(BUCKET, "", "", ("", ""), 1000)
    assert [row["key"] for row in page.rows] == ["kept"]
    path = store._blobs.path(blob.name)
    assert path.exists()
    store.delete_objects(BUCKET, ["kept"])
    until(lambda: not path.exists(), "its last blob is gone")
    store.close()


def test_bytes_and_names_are_on_disk_before_the_index_knows_them(tmp_path, monkeypatch):
    store = Store(tmp_path / "s3")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    store.create_bucket(BUCKET, "us-east-1")
    digests = Digests(set())
    with store.new_blob() as writer:
        blob = writer.seal(digests)
        path = store._blobs.path(blob.name)
        assert synced == [str(path), str(path.parent)]
        store.put_object(BUCKET, "k", Draft(blob.md5, {}), writer, blob, Precondition())
    with store._index.reading() as db:
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert path.exists()
    store.close()
