"""The competitors: curl, s3transfer, Uppy in the same Chromium, and lanes without any uploader."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page

from benchmarks import chromium
from benchmarks.knobs import knobs
from benchmarks.place import PEERS, Place
from benchmarks.turns import Turn, say

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
VENDOR = {
    "/vendor/uppy5.mjs": MODULES / "uppy5/dist/uppy.min.mjs",
    "/vendor/uppy6.mjs": MODULES / "uppy6/dist/uppy.min.mjs",
}
TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript"}


def fetch_uppy() -> bool:
    """Install what package-lock.json pins into node_modules; returns whether it is there."""
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    mark = MODULES / ".set-up"
    if mark.is_file() and mark.read_text() == wanted:
        return True
    say("   fetching Uppy from the npm registry")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    npm = shutil.which("npm", path=tools)
    words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    env = os.environ | {"PATH": tools}
    if npm is None or subprocess.run([npm, *words], cwd=HERE, env=env, check=False).returncode:
        say("   Uppy could not be fetched: it does not take part")
        return False
    mark.write_text(wanted)
    return True


# -- from the command line ---------------------------------------------------------------------


def curl(place: Place, file: Path, endpoint: str) -> Turn:
    """`curl -T` of the whole file to one presigned URL: one connection, no uploader."""
    place.forget()
    address = place.client(endpoint).generate_presigned_url(
        "put_object", Params={"Bucket": PEERS, "Key": file.name}, ExpiresIn=3600
    )
    limit = str(int(knobs().turn_seconds))
    words = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        limit,
        "-T",
        str(file),
        address,
    ]
    before, began = place.endpoint_seconds(), time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    return Turn(took, {"endpoint": place.endpoint_seconds() - before, "shown": took})


_TRANSFER = """
import sys, time, boto3
from botocore.config import Config
endpoint, key, secret, bucket, path, name = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key,
    aws_secret_access_key=secret, config=Config(s3={"addressing_style": "path"}))
client.list_buckets()
began = time.monotonic()
client.upload_file(path, bucket, name)
print(time.monotonic() - began)
"""


def s3transfer(place: Place, file: Path, endpoint: str) -> Turn:
    """Upload with boto3's upload_file and its defaults: 8 MiB parts, ten threads, CRC32.

    It runs in a process of its own, whose start does not count.
    """
    place.forget()
    before = place.endpoint_seconds()
    words = [endpoint, place.key, place.secret, PEERS, str(file), file.name]
    done = subprocess.run(
        [sys.executable, "-c", _TRANSFER, *words],
        check=True, capture_output=True, text=True, timeout=knobs().turn_seconds,
    )  # fmt: skip
    took = float(done.stdout)
    return Turn(took, {"endpoint": place.endpoint_seconds() - before, "shown": took})


# -- in the browser ----------------------------------------------------------------------------


class Peers:
    """A page with other uploaders, and the small server that signs URLs for them."""

    def __init__(self, place: Place, browser: Browser) -> None:
        self._place = place
        self._browser = browser
        self._usage = chromium.Usage(browser)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(place))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/peer.html"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def send(self, uploader: str, file: Path, endpoint: str, **more: int) -> Turn:
        """Send one file by "uppy5", "uppy6", or "lanes" with `part` (bytes) and `lanes`."""
        query = urlencode({"with": uploader, "endpoint": endpoint, **more})

        def act(page: Page) -> dict[str, float]:
            page.locator("#file").set_input_files(str(file))
            page.wait_for_function("document.getElementById('state').textContent !== 'ready'")
            if (said := page.locator("#state").text_content()) != "done":
                raise RuntimeError(said)
            return dict(page.evaluate(chromium.STORED, endpoint))

        return self.browse(f"{self.url}?{query}", act)

    def browse(self, url: str, act: Callable[[Page], dict[str, float]]) -> Turn:
        """Take one turn in the browser, with the CPU seconds of every process involved."""
        self._place.forget()
        with chromium.page_at(self._browser, url) as page:
            before = self._used()
            told = act(page)
            after = self._used()
        used = {kind: seconds - before.get(kind, 0.0) for kind, seconds in after.items()}
        return Turn(told["stored"], used | told)

    def _used(self) -> dict[str, float]:
        return self._usage.cpu_seconds() | {
            "endpoint": self._place.endpoint_seconds(),
            "web": self._place.web_seconds(),
            "line": self._place.line_seconds(),
        }


def _handler(place: Place) -> type[BaseHTTPRequestHandler]:
    clients: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.partition("?")[0]
            path = VENDOR.get(name, HERE / "web" / name.lstrip("/"))
            if not path.is_file():
                return self._answer(404, b"", "text/plain")
            return self._answer(200, path.read_bytes(), TYPES[path.suffix])

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint = question["endpoint"]
            client = clients.setdefault(endpoint, place.client(endpoint))
            answer = _ACTS[question["act"]](client, place.s3, question)
            self._answer(200, json.dumps(answer).encode(), "application/json")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    return Handler


def _signed(client: Any, operation: str, **params: Any) -> str:
    url: str = client.generate_presigned_url(
        operation, Params={"Bucket": PEERS, **params}, ExpiresIn=3600
    )
    return url


def _create(_: Any, s3: Any, asked: Any) -> Any:
    answer = s3.create_multipart_upload(Bucket=PEERS, Key=asked["key"])
    return {"key": asked["key"], "uploadId": answer["UploadId"]}


def _part(client: Any, _: Any, asked: Any) -> Any:
    names = {"Key": asked["key"], "UploadId": asked["uploadId"]}
    return {"url": _signed(client, "upload_part", PartNumber=asked["partNumber"], **names)}


def _complete(_: Any, s3: Any, asked: Any) -> Any:
    parts = [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in asked["parts"]]
    s3.complete_multipart_upload(
        Bucket=PEERS, Key=asked["key"], UploadId=asked["uploadId"], MultipartUpload={"Parts": parts}
    )
    return {}


def _put(client: Any, _: Any, asked: Any) -> Any:
    return {"method": "PUT", "url": _signed(client, "put_object", Key=asked["key"]), "fields": {}}


def _plan(client: Any, s3: Any, asked: Any) -> Any:
    upload_id = _create(client, s3, asked)["uploadId"]
    numbers = range(1, asked["count"] + 1)
    names = {"Key": asked["key"], "UploadId": upload_id}
    urls = [_signed(client, "upload_part", PartNumber=number, **names) for number in numbers]
    return {"uploadId": upload_id, "urls": urls}


def _abort(_: Any, s3: Any, asked: Any) -> Any:
    s3.abort_multipart_upload(Bucket=PEERS, Key=asked["key"], UploadId=asked["uploadId"])
    return {}


def _request(client: Any, _: Any, asked: Any) -> Any:
    """Sign what Uppy 6 wants to do to an object, derived from the method and the upload id."""
    upload, number = asked.get("uploadId"), asked.get("partNumber")
    operation = {
        ("PUT", False): "put_object",
        ("PUT", True): "upload_part",
        ("POST", False): "create_multipart_upload",
        ("POST", True): "complete_multipart_upload",
        ("GET", True): "list_parts",
        ("DELETE", True): "abort_multipart_upload",
        ("DELETE", False): "delete_object",
    }[asked["method"], bool(upload)]
    params = {"Key": asked["key"]} | ({"UploadId": upload} if upload else {})
    params |= {"PartNumber": number} if number else {}
    return {"url": _signed(client, operation, **params)}


_ACTS = {
    "create": _create,
    "part": _part,
    "complete": _complete,
    "put": _put,
    "plan": _plan,
    "abort": _abort,
    "request": _request,
}


@contextlib.contextmanager
def opened(place: Place, browser: Browser) -> Generator[Peers]:
    """The peers' page, served while the block runs."""
    place.make_peers_bucket()
    peers = Peers(place, browser)
    try:
        yield peers
    finally:
        peers.close()
