"""One zip assembled inside the bucket: how few of its bytes pass through the maker.

Also how fast a zip of small files is made, against reading them one by one with boto3.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from app.crc32 import combine
from benchmarks.knobs import MIB
from benchmarks.place import Place, delayed, opened
from benchmarks.turns import Turn, figure, median, ratio, say, table, take_turns
from embedded.services import BUCKET

LARGE_COUNT, SMALL_SIZE, DELAY = 10, 10 * 1024, 0.02
BLOCK = 64 * MIB
# One by one takes minutes: only this many are read, and the result is scaled up.
SERIAL_COUNT = 300


def run() -> None:
    """Run both halves; the second over a line that delays each request by 20 ms."""
    large = int(os.environ.get("ZIP_LARGE", str(1024))) * MIB
    small_count = int(os.environ.get("ZIP_SMALL", "10000"))
    with (
        tempfile.TemporaryDirectory() as data,
        opened(Path(data), "s3", with_beeline=False) as place,
    ):
        place.s3.create_bucket(Bucket=BUCKET)
        _large(place, large)
        _small(place, small_count)


def _large(place: Place, size: int) -> None:
    say(f"   {LARGE_COUNT} files of {size // MIB} MiB, made of references")
    body = os.urandom(MIB) * (BLOCK // MIB)
    place.s3.put_object(Bucket=BUCKET, Key="beeline/block", Body=body)
    crc32 = combine([(zlib.crc32(body).to_bytes(4, "big"), BLOCK)] * (size // BLOCK))
    members = [_repeated(place, f"large-{n}", size // BLOCK) for n in range(LARGE_COUNT)]
    plan = [(key, etag, size, crc32.hex()) for key, etag in members]
    with delayed(place, 0.0) as (url, told):
        before = int(told.read_text() or 0)
        turn = _build(place, url, plan)
        passed = int(told.read_text()) - before
    whole = turn.more["size"]
    table(
        f"a zip of {LARGE_COUNT} x {size // MIB} MiB",
        ["bytes of it", "read and sent by the maker", "share", "seconds", "memory", "before it"],
        [[f"{whole:,.0f}", f"{passed:,}", f"{100 * passed / whole:.2f} %", figure(turn.seconds, 1),
          *(f"{turn.more[name] / MIB:.0f} MiB" for name in ("memory", "base"))]],
    )  # fmt: skip


def _repeated(place: Place, name: str, count: int) -> tuple[str, str]:
    """An object of `count` blocks, each a reference to the same bytes."""
    key, s3 = f"beeline/{name}", place.s3
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts = []
    for number in range(1, count + 1):
        made = s3.upload_part_copy(
            Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number,
            CopySource={"Bucket": BUCKET, "Key": "beeline/block"},
        )  # fmt: skip
        parts.append({"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]})
    done = s3.complete_multipart_upload(
        Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    return key, done["ETag"]


def _small(place: Place, count: int) -> None:
    say(f"   {count} files of {SMALL_SIZE // 1024} KiB, {DELAY * 1000:.0f} ms for each request")
    body = os.urandom(SMALL_SIZE)

    def put(number: int) -> tuple[str, str]:
        key = f"beeline/small-{number}"
        return key, place.s3.put_object(Bucket=BUCKET, Key=key, Body=body)["ETag"]

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(put, range(count)))
    crc32 = zlib.crc32(body).to_bytes(4, "big").hex()
    plan = [(key, etag, SMALL_SIZE, crc32) for key, etag in made]
    with delayed(place, DELAY) as (url, _):
        rounds = take_turns(
            {
                "composed": lambda: _build(place, url, plan),
                "one by one": lambda: _serial(place, url, plan),
            }
        )
    ours, theirs = median(rounds["composed"], "seconds"), median(rounds["one by one"], "seconds")
    table(
        f"{count} x {SMALL_SIZE // 1024} KiB at {DELAY * 1000:.0f} ms",
        ["", "seconds", "x as fast", "CPU s: its own", "endpoint", "line", "memory"],
        [
            ["boto3, one by one", figure(theirs, 1), "1", *_more(rounds["one by one"])],
            ["composed", figure(ours, 1), ratio(theirs, ours), *_more(rounds["composed"])],
        ],
    )


def _more(turns: list[Turn]) -> list[str]:
    """CPU seconds by process, and the peak resident memory."""
    shares = [figure(median(turns, name), 1) for name in ("own", "endpoint", "line")]
    memory = [turn.more["memory"] for turn in turns if "memory" in turn.more]
    return [*shares, f"{max(memory) / MIB:.0f} MiB" if memory else ""]


def _serial(place: Place, url: str, plan: list[Any]) -> Turn:
    client = place.client(url)
    shares = _shares(place)
    began, own = time.monotonic(), time.process_time()
    for key, _, _, _ in plan[:SERIAL_COUNT]:
        client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    times = len(plan) / min(SERIAL_COUNT, len(plan))
    seconds = (time.monotonic() - began) * times
    told = {"seconds": seconds, "own": (time.process_time() - own) * times}
    return Turn(seconds, told | {name: used * times for name, used in shares().items()})


def _shares(place: Place) -> Callable[[], dict[str, float]]:
    """A function that returns the CPU seconds of endpoint and line from now on."""
    endpoint, line = place.endpoint_seconds(), place.line_seconds()
    return lambda: {
        "endpoint": place.endpoint_seconds() - endpoint,
        "line": place.line_seconds() - line,
    }


def _build(place: Place, url: str, plan: list[Any]) -> Turn:
    """Build the zip in a process of its own, so that its memory can be measured."""
    settings = {
        "S3_ENDPOINT_URL": url, "S3_BUCKET": BUCKET, "S3_ACCESS_KEY_ID": place.key,
        "S3_SECRET_ACCESS_KEY": place.secret, "SECRET_KEY": "only-for-benchmarks-0123456789abcdef",
        "BASE_URL": "http://localhost", "DATABASE_URL": "postgresql://none", "REDIS_URL": "redis://none",
    }  # fmt: skip
    shares = _shares(place)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.zip_maker"],
        env=os.environ | settings,
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    told = json.loads(done.stdout) | shares()
    time.sleep(0.6)  # The line reports the bytes passed twice a second.
    return Turn(told["seconds"], told)
