"""Presigning part URLs: ours in a batch, boto3's, and the least that CPython needs for it."""

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import UTC, datetime

import boto3
from botocore.config import Config

from app.gateways.presign import Credentials, Presigner
from benchmarks.knobs import MIB, knobs
from benchmarks.turns import Turn, figure, median, ratio, table, take_turns

BATCH = 100
# Chosen to take about equally long, and too short for the machine's load to change meanwhile.
BATCHES = {"ours": 60, "the floor": 90, "boto3": 1}
KEY, UPLOAD = f"beeline/{'0a' * 20}", "c" * 32
CHECKSUM = "AAAAAA=="
KNOWN = Credentials("AKIAEXAMPLE", "secret/example+key")
PRESIGNER = Presigner(
    "https://s3.example.org",
    "bucket",
    "us-east-1",
    in_path=True,
    credentials=lambda: KNOWN,
    now=lambda: datetime.now(UTC),
)
BOTO3 = boto3.client(
    "s3",
    endpoint_url="https://s3.example.org",
    region_name="us-east-1",
    aws_access_key_id=KNOWN.access_key,
    aws_secret_access_key=KNOWN.secret_key,
    config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
)
PARTS = [(number, 8 * MIB) for number in range(1, BATCH + 1)]


def run() -> None:
    """Print the microseconds for one URL, in batches of 100."""
    contestants = {
        "ours": lambda: _timed("ours", _ours),
        "ours, with checksum": lambda: _timed("ours", _ours_with_checksums),
        "the floor": lambda: _timed("the floor", _floor),
        "boto3": lambda: _timed("boto3", _boto3),
        "boto3, with checksum": lambda: _timed("boto3", _boto3_with_checksums),
    }
    rounds = take_turns(contestants, rounds=5 * knobs().rounds)
    medians = {name: median(turns, "each") for name, turns in rounds.items()}
    floor, rows = medians.get("the floor"), []
    for name, each in medians.items():
        theirs = medians.get("boto3, with checksum" if "checksum" in name else "boto3")
        rows.append([name, figure(each, 2), ratio(theirs, each), ratio(each, floor)])
    table(f"batches of {BATCH}", ["", "us each", "boto3's is x", "x floor"], rows)


def _timed(kind: str, act: Callable[[], object]) -> Turn:
    act()
    count, began = BATCHES[kind], time.perf_counter()
    for _ in range(count):
        act()
    took = time.perf_counter() - began
    return Turn(took, {"each": took / count / BATCH * 1e6})


def _ours() -> None:
    PRESIGNER.part_urls(KEY, UPLOAD, PARTS, expires_in=3600)


def _ours_with_checksums() -> None:
    PRESIGNER.part_urls(KEY, UPLOAD, PARTS, expires_in=3600, checksums=[CHECKSUM] * BATCH)


def _floor() -> None:
    """One SHA-256 of what changes in a request, one HMAC of what is signed; nothing else."""
    changing, signed, key = b"c" * 160, b"s" * 130, b"k" * 32
    for _ in range(BATCH):
        hashlib.sha256(changing).hexdigest()
        hmac.digest(key, signed, "sha256").hex()


def _boto3(**more: str) -> None:
    for number, size in PARTS:
        names = {"Bucket": "bucket", "Key": KEY, "UploadId": UPLOAD}
        params = names | {"PartNumber": number, "ContentLength": size} | more
        BOTO3.generate_presigned_url("upload_part", Params=params, ExpiresIn=3600)


def _boto3_with_checksums() -> None:
    _boto3(ChecksumCRC32=CHECKSUM)
