"""The test bed: services, an S3 endpoint in memory, Beelines in front of it, a slow line."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from benchmarks.knobs import MIB, knobs
from benchmarks.sink import Sink
from benchmarks.turns import say
from embedded import services
from tests.lab.stack import Process, Stack, family, kill_family

MEMORY = Path("/dev/shm")
PREFIX = "beeline-bench-"
PEERS = "peers"
RATE, EACH, DELAY = 125e6, 30e6, 0.04
# Open to every origin: Beeline's pages and the peers' page differ in theirs.
CORS = {
    "CORSRules": [
        {
            "AllowedOrigins": ["*"],
            "AllowedMethods": ["PUT", "GET", "HEAD", "POST", "DELETE"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 3600,
        }
    ]
}


def checksum_ways() -> list[tuple[str, dict[str, str]]]:
    """With checksums and without: the name in tables and the settings."""
    return [("CRC32 on", {"S3_CHECKSUMS": "on"}), ("CRC32 off", {"S3_CHECKSUMS": "off"})]


@contextlib.contextmanager
def folder(needed: int) -> Generator[Path]:
    """A temporary folder: in memory if `needed` bytes fit, so that the disk is not measured."""
    where = MEMORY if _memory_free() > needed else None
    if where is None:
        say(f"   {needed // MIB} MiB do not fit into memory: the disk takes part")
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=where) as name:
        yield Path(name)


def _memory_free() -> int:
    """How many bytes fit there, after removing what killed benchmarks left behind."""
    if not MEMORY.is_dir():
        return 0
    for left in MEMORY.glob(f"{PREFIX}*"):
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024 // 2, shutil.disk_usage(MEMORY).free)
    return 0


def make_file(path: Path, size: int, *, sparse: bool = False) -> Path:
    """Make a file of this size; a sparse one takes no space."""
    with path.open("wb") as file:
        block = b"" if sparse else os.urandom(MIB)
        for _ in range(0 if sparse else size // MIB):
            file.write(block)
        file.truncate(size)
    return path


class Place:
    """One endpoint, and the Beelines and lines in front of it, started when first asked for."""

    def __init__(self, environ: dict[str, str], endpoint_url: str | None = None) -> None:
        self.environ = environ
        self.endpoint_url = endpoint_url or environ["S3_ENDPOINT_URL"]
        self.key = environ["S3_ACCESS_KEY_ID"]
        self.secret = environ["S3_SECRET_ACCESS_KEY"]
        self.s3 = self._client(self.endpoint_url)
        self._beelines: dict[tuple[tuple[str, str], ...], Stack] = {}
        self._lines: dict[float, str] = {}
        self._processes: list[Process] = []

    def _client(self, endpoint_url: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=self.environ["S3_REGION"],
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def client(self, endpoint_url: str) -> Any:
        """A client of the same endpoint at another URL, for signing and for s3transfer."""
        return self.s3 if endpoint_url == self.endpoint_url else self._client(endpoint_url)

    def beeline(self, **settings: str) -> Stack:
        """The Beeline with these settings, with a web process; the first one has a worker too."""
        key = tuple(sorted(settings.items()))
        if key not in self._beelines:
            given = self.environ | {
                "SECRET_KEY": "only-for-benchmarks-0123456789abcdefghij",
                "LOG_LEVEL": "ERROR",
                "WEB_CONCURRENCY": "1",
                "GUNICORN_CMD_ARGS": "--log-level error",
                "MAX_CREATES_PER_HOUR": "1000000",
                "MAX_OPEN_TRANSFERS_PER_ADDRESS": "100000",
            }
            stack = Stack(given | settings)
            if "PART_SIZE" in settings:
                commands = stack._commands
                commands["web"] = commands["web"].replace("wsgi:app", "benchmarks.wsgi:app")
            self._beelines[key] = stack
            if len(self._beelines) == 1:
                stack.release()
                self._open_buckets()
                stack.start("worker")
            stack.start("web")
        return self._beelines[key]

    def _open_buckets(self) -> None:
        self.s3.put_bucket_cors(Bucket=services.BUCKET, CORSConfiguration=CORS)

    def make_peers_bucket(self) -> None:
        """Create the bucket that all but Beeline use."""
        self.s3.create_bucket(Bucket=PEERS)
        self.s3.put_bucket_cors(Bucket=PEERS, CORSConfiguration=CORS)

    def line(self, pace: float | None = None) -> str:
        """The endpoint's URL behind the slow line.

        PACE below 1 is slow motion, for a machine that is too weak or too busy: the rates go down
        and the delay goes up, so that the number of bytes in flight stays the same.
        """
        scale = pace or knobs().pace
        if scale not in self._lines:
            target = str(urlsplit(self.endpoint_url).port)
            words = [sys.executable, "-m", "benchmarks.line", target, "--delay", str(DELAY / scale)]
            words += ["--rate", str(RATE * scale), "--each", str(EACH * scale)]
            process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
            assert process.stdout is not None
            self._processes.append(process)
            self._lines[scale] = f"http://127.0.0.1:{int(process.stdout.readline())}"
        return self._lines[scale]

    def forget(self) -> None:
        """Remove every object and open multipart upload, so that each turn starts from nothing."""
        for bucket in (services.BUCKET, PEERS):
            with contextlib.suppress(self.s3.exceptions.ClientError):
                for upload in self.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                    self.s3.abort_multipart_upload(
                        Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                for one in self.s3.list_objects_v2(Bucket=bucket).get("Contents", []):
                    self.s3.delete_object(Bucket=bucket, Key=one["Key"])
        time.sleep(0.2)  # The endpoint removes its files a moment later.

    def endpoint_seconds(self) -> float:
        """CPU seconds that the endpoint has used."""
        return sum(map(cpu_seconds, _serving(urlsplit(self.endpoint_url).port or 0)))

    def web_seconds(self) -> float:
        """CPU seconds that all web processes and workers have used."""
        running = [p for stack in self._beelines.values() for p in stack.running.values()]
        return sum(cpu_seconds(pid) for process in running for pid in family(process.pid))

    def line_seconds(self) -> float:
        """CPU seconds that the slow lines have used."""
        return sum(cpu_seconds(process.pid) for process in self._processes)

    def stop(self) -> None:
        """Stop everything that was started here."""
        for stack in self._beelines.values():
            stack.stop()
        for process in self._processes:
            kill_family(process)


@contextlib.contextmanager
def opened(data: Path, endpoint: str, *, with_beeline: bool = True) -> Generator[Place]:
    """A place whose endpoint ("s3", or "sink", which discards bytes) keeps its data in `data`."""
    with contextlib.ExitStack() as running:
        running.callback(setattr, services, "ALL", services.ALL)
        services.ALL = (*services.ALL, Sink)
        environ = running.enter_context(services.started([endpoint], var=data / endpoint))
        if with_beeline:
            environ |= running.enter_context(services.started(["postgres", "redis"]))
        place = Place(environ)
        running.callback(place.stop)
        yield place


@contextlib.contextmanager
def delayed(place: Place, delay: float) -> Generator[tuple[str, Path]]:
    """The endpoint's URL behind a delay in seconds, and a file with the bytes passed both ways."""
    with tempfile.TemporaryDirectory() as kept:
        told = Path(kept) / "told"
        told.write_text("0")
        target = str(urlsplit(place.endpoint_url).port)
        words = [sys.executable, "-m", "benchmarks.line", target, "--delay", str(delay)]
        words += ["--rate", "1e12", "--each", "1e12", "--told", str(told)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        place._processes.append(process)
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", told
        finally:
            place._processes.remove(process)
            kill_family(process)


def _serving(port: int) -> list[int]:
    """The pids of the endpoint at that port and of its leash, found by their command lines."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if {b"embedded.s3", b"benchmarks.sink"} & set(words) and str(port).encode() in words:
                found.append(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process; 0 if it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
