"""The S3 endpoint as a separate process, and helpers to talk to it."""

import http.client
import os
import re
import signal
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ROOT = Path(__file__).resolve().parent.parent.parent
ACCESS_KEY, SECRET_KEY = "beeline", "a secret/with+odd=characters"
MiB = 1024 * 1024


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return found[1].decode() if found else ""

    @property
    def verdict(self) -> tuple[int, str]:
        return self.status, self.code


class Endpoint:
    """Runs `python -m embedded.s3` on a folder and a free port."""

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        words = [sys.executable, "-m", "embedded.s3", "--port", "0", "--data", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen(
            [*words, *([] if sync else ["--no-sync"])],
            cwd=ROOT,
            env={
                **os.environ,
                "S3_ACCESS_KEY_ID": ACCESS_KEY,
                "S3_SECRET_ACCESS_KEY": SECRET_KEY,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1] if self.line else ""
        self.port = int(self.url.rpartition(":")[2] or 0)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(timeout=10)
        self.process.stdout.close()
        return status

    def client(self, *, secret: str = SECRET_KEY, key: str = ACCESS_KEY, **options: Any) -> Any:
        options.setdefault("signature_version", "s3v4")
        options.setdefault("s3", {"addressing_style": "path"})
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="eu-central-7",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 1}, **options),
        )

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def send(
        self, method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a plain request, as a browser would: nothing is signed or added."""
        connection = self.connect()
        try:
            return exchange(connection, method, url, body, headers)
        finally:
            connection.close()

    def blobs(self) -> set[str]:
        return {path.name for path in (self.folder / "blobs").glob("??/*")}

    def memory(self) -> int:
        """The process's peak memory (VmHWM), in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Make one request on a connection, which stays open for more."""
    parts = urllib.parse.urlsplit(url)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    given = {"Host": parts.netloc, **(headers or {})} if parts.netloc else headers or {}
    connection.request(method, target, body if method in ("PUT", "POST") else None, given)
    response = connection.getresponse()
    content = response.read()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, named, content)
