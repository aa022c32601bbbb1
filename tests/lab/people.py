"""People who use a Beeline over plain HTTP, as patient as a browser, and record every response."""

import contextlib
import json
import random
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from tests.lab.stack import Stack

# The product's promise: whatever is down, every request is answered within this time.
SLOWEST_SECONDS = 10.0
# Shorter than a browser's pause between tries, because tests measure the recovery time.
PAUSE_SECONDS = 0.4
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SLUG = re.compile(r"(?<=/d/)[^/]+")


@dataclass(frozen=True)
class Answer:
    """The outcome of one request; status 0 means no response at all."""

    asked: str
    status: int
    seconds: float
    at: float
    body: bytes = b""
    headers: Any = field(default_factory=dict)
    error: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.asked}: {self.status} after {self.seconds:.2f} s {self.error}"


class Heard:
    """All responses that people got."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        with self._lock:
            self.answers.append(answer)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    @property
    def slowest(self) -> float:
        return max(answer.seconds for answer in self.answers)

    def check(self, *refusals: int) -> None:
        """Assert that all requests were answered in time, and never with 500.

        A 503 must have a Retry-After. `refusals` are further statuses that are fine here.
        """
        good = {200, 201, 202, 204, 303, *refusals}
        wrong = [one for one in self.answers if one.status not in good | {503}]
        assert not wrong, "\n".join(map(str, wrong[:10]))
        mute = [one for one in self.answers if one.status == 503 and not _says_when(one)]
        assert not mute, "\n".join(map(str, mute[:10]))
        late = [one for one in self.answers if one.seconds >= SLOWEST_SECONDS]
        assert not late, "\n".join(map(str, late[:10]))


def _says_when(answer: Answer) -> bool:
    return int(answer.headers.get("Retry-After", 0)) > 0


@dataclass
class Sent:
    """A transfer as its sender knows it."""

    json: dict[str, Any]
    contents: dict[str, bytes]
    urls: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.json["id"])

    @property
    def page(self) -> str:
        return f"/d/{self.json['slug']}"

    @property
    def key(self) -> str:
        """The key of its first file in the bucket."""
        return urlsplit(self.urls[0][0]).path.split("/", 2)[2]


class Person:
    """One browser: every request on its own connection, as through a platform's router."""

    def __init__(self, stack: Stack, heard: Heard | None = None, at: str | None = None) -> None:
        """`at`: the URL of the only web process to use."""
        self.stack = stack
        self.at = at
        self.heard = heard or Heard()
        self._host = urlsplit(stack.url).netloc
        self._cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make one request, without retries."""
        given = {"Host": self._host, "Connection": "close"} | headers
        if self._cookies:
            given["Cookie"] = "; ".join(f"{k}={v}" for k, v in self._cookies.items())
        data = None
        if body is not None:
            given["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        asked = f"{method} {_SLUG.sub('<slug>', _UUID.sub('<id>', path))}"
        url = (self.at or self.stack.address()) + path
        began = time.monotonic()
        try:
            with urllib3.PoolManager(retries=False, timeout=30) as http:
                got = http.request(method, url, body=data, headers=given, redirect=False)
            answer = Answer(
                asked, got.status, time.monotonic() - began, began, got.data, got.headers
            )
            for cookie in got.headers.getlist("Set-Cookie"):
                name, _, value = cookie.partition(";")[0].partition("=")
                self._cookies[name] = value
        except HTTPError as error:
            took = time.monotonic() - began
            answer = Answer(asked, 0, took, began, error=f"{type(error).__name__}: {error}")
        self.heard.add(answer)
        return answer

    def insist(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Retry a request while the answer is temporary (429, 5xx, none); fails after 90 s."""
        deadline = time.monotonic() + 90
        while True:
            answer = self.ask(method, path, body, **headers)
            if answer.status not in (0, 429, 500, 502, 503, 504):
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.5))

    # -- sending -------------------------------------------------------------------------------

    def begin(self, contents: dict[str, bytes], **options: Any) -> Sent:
        """Create a transfer with these files; idempotent, even if a response is lost."""
        files = [{"path": path, "size": len(body)} for path, body in contents.items()]
        key = secrets.token_urlsafe(24)
        answer = self.insist(
            "POST", "/transfers", {"files": files, **options}, **{"Idempotency-Key": key}
        )
        assert answer.status == 201, (answer, answer.body)
        return Sent(answer.json, contents)

    def call(self, sent: Sent, method: str, path: str = "", body: Any = None) -> Answer:
        """Make a request with the owner token, with retries."""
        headers = {"Authorization": f"Bearer {sent.json['owner_token']}"}
        return self.insist(method, f"/transfers/{sent.id}{path}", body, **headers)

    def upload(self, sent: Sent) -> Sent:
        """PUT every part to its presigned URL, with retries until storage has it."""
        by_id = {file["id"]: file for file in sent.json["files"]}
        wanted = [
            {"file": file["id"], "numbers": list(range(1, file["part_count"] + 1))}
            for file in sent.json["files"]
        ]
        answer = self.call(sent, "POST", "/parts", {"wanted": wanted})
        assert answer.status == 200, (answer, answer.body)
        for part in answer.json["parts"]:
            file = by_id[part["file"]]
            start = (part["number"] - 1) * file["part_size"]
            body = sent.contents[file["path"]][start : start + part["size"]]
            sent.urls.append((part["url"], body, part["headers"]))
            assert put(part["url"], body, part["headers"]) == 200
        return sent

    def complete(self, sent: Sent) -> Sent:
        """Complete the transfer: all has been sent."""
        answer = self.call(sent, "POST", "/complete", {})
        assert answer.status == 202, (answer, answer.body)
        return sent

    def send(self, contents: dict[str, bytes] | None = None, **options: Any) -> Sent:
        """Create, upload and complete a transfer, without waiting for READY."""
        contents = {"a.txt": secrets.token_bytes(50)} if contents is None else contents
        return self.complete(self.upload(self.begin(contents, **options)))

    def show(self, sent: Sent) -> dict[str, Any]:
        """The transfer as its owner sees it now."""
        answer = self.call(sent, "GET")
        assert answer.status == 200, (answer, answer.body)
        return answer.json


def put(url: str, body: bytes, headers: dict[str, str]) -> int:
    """PUT to storage as a browser does, with retries on 5xx or no answer; the last status."""
    with urllib3.PoolManager(retries=False, timeout=30) as http:
        for _ in range(20):
            with contextlib.suppress(HTTPError):
                status = http.request("PUT", url, body=body, headers=headers).status
                if status < 500:
                    return status
            time.sleep(PAUSE_SECONDS)
    return 0


def get(url: str) -> tuple[int, bytes]:
    """GET from storage."""
    with urllib3.PoolManager(retries=False, timeout=30) as http:
        answer = http.request("GET", url)
        return answer.status, answer.data


class Crowd:
    """People who keep sending and looking, each in their own thread, until stop()."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.heard = Heard()
        self.sent: list[Sent] = []
        self.ended = threading.Event()
        # Lets a test hold senders back, where more parallel work would only take longer.
        self.may_send: Callable[[], bool] = lambda: True
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, senders: int, watchers: int, pause: float) -> None:
        for act in [self._send] * senders + [self._watch] * watchers:
            thread = threading.Thread(target=self._repeat, args=(act, pause), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Let all of them finish their current action; raises the first failure."""
        self.ended.set()
        for thread in self._threads:
            thread.join(120)
        if self._failures:
            raise self._failures[0]

    def _repeat(self, act: Callable[[Person], None], pause: float) -> None:
        person = Person(self.stack, self.heard)
        try:
            while not self.ended.is_set():
                act(person)
                self.ended.wait(pause * random.uniform(0.5, 1.5))
        except BaseException as error:
            self._failures.append(error)

    def _send(self, person: Person) -> None:
        if not self.may_send():
            return
        contents = {f"{n}.bin": secrets.token_bytes(20) for n in range(random.randint(1, 3))}
        self.sent.append(person.send(contents))

    def _watch(self, person: Person) -> None:
        if self.sent:
            sent = random.choice(self.sent)
            person.ask("GET", sent.page)
            headers = {"Authorization": f"Bearer {sent.json['owner_token']}"}
            person.ask("GET", f"/transfers/{sent.id}", **headers)
        person.ask("GET", "/")
        person.ask("GET", "/health")


@contextlib.contextmanager
def crowd(
    stack: Stack, *, senders: int = 2, watchers: int = 2, pause: float = 0.6
) -> Iterator[Crowd]:
    """A crowd at work while the block runs; afterwards all of them have finished."""
    people = Crowd(stack)
    people.start(senders, watchers, pause)
    try:
        yield people
    finally:
        people.stop()
