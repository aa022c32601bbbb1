"""People who live the planned lives, check every answer and every byte, and remember what must be."""

import base64
import contextlib
import hashlib
import io
import itertools
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.lab.lab import Lab
from tests.lab.people import Answer, Heard, Person, Sent, get, put
from tests.soak.plan import FilePlan, Life, Plan
from tests.soak.rows import ask, explain, tell_queue, tell_row

# Whatever is broken for a while, a transfer that was sent is READY within this time: a minute for a
# death, and several may strike the same transfer one after the other.
READY_SECONDS = 180
# Whoever waits longer than this looks at what happens meanwhile, and twice as often from then on.
LONG_SECONDS = 20
# A command line's client: no cookies, so that each of its downloads counts.
AGENT = {"User-Agent": "curl/8"}


@dataclass
class Memory:
    """What everybody has seen: what must be true of each transfer, and what went wrong."""

    heard: Heard = field(default_factory=Heard)
    fates: dict[str, set[str]] = field(default_factory=dict)
    # Who sent it, how far they came and what they heard last; what was struck, and when.
    stories: dict[str, str] = field(default_factory=dict)
    strikes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    # Expired, and their grace period is to be over.
    to_go: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    # Seconds from "that is all" to the verdict, of each time it was said; and what was seen
    # during the longest.
    waits: list[float] = field(default_factory=list)
    longest_wait: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, by: int = 1) -> None:
        """One more of something."""
        with self.lock:
            self.counts[what] += by

    def find(self, what: str) -> None:
        """Something is wrong."""
        with self.lock:
            self.findings.append(f"at {self.passed:.0f} s: {what}")

    def note_wait(self, seconds: float, seen: list[str]) -> None:
        """Somebody was told what has become of what they sent."""
        with self.lock:
            if seconds > max(self.waits, default=0.0):
                self.longest_wait = seen
            self.waits.append(seconds)

    def note_strike(self, kind: str) -> None:
        """Something breaks now."""
        with self.lock:
            self.strikes.append(f"{self.passed:.0f} s {kind}")

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began


class People:
    """Threads that take one life after the other until the time is over."""

    def __init__(self, lab: Lab, plan: Plan, memory: Memory, count: int) -> None:
        self._lab, self._plan, self._memory = lab, plan, memory
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._live, daemon=True) for _ in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No new lives; those begun are lived to their end."""
        self._over.set()
        deadline = time.monotonic() + READY_SECONDS + 120
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._memory.find("somebody is still waiting for an answer")

    def _live(self) -> None:
        while not self._over.is_set():
            life = self._plan.life(next(self._numbers))
            one = Living(self._lab, life, self._memory)
            try:
                one.live()
                self._memory.count("lives")
            except Exception as error:
                self._memory.find(f"{one.tell()}: {type(error).__name__}: {error}{one.truth()}")
            finally:
                one.leave_story()


class Living:
    """One life: a sender and the visitors of the link."""

    def __init__(self, lab: Lab, life: Life, memory: Memory) -> None:
        self.lab, self.life, self.memory = lab, life, memory
        self.person = Person(lab.stack, memory.heard)
        self.step = "creating"
        self.files = {one.path: one for one in life.files}
        self.sent: Sent
        self.last_heard = "nothing yet"

    def tell(self) -> str:
        """Who this is and how far they came."""
        life = self.life
        return f"life {life.number} ({life.kind}, then {life.ending}), at {self.step}"

    def truth(self) -> str:
        """What is really there of what they sent."""
        if not hasattr(self, "sent"):
            return ""
        return f"\n    {explain(self.lab.truth, self.sent.id)}\n    last heard: {self.last_heard}"

    def leave_story(self) -> None:
        """What is to be told should anything be wrong with the transfer in the end."""
        if hasattr(self, "sent"):
            self.memory.stories[self.sent.id] = f"{self.tell()}; last heard: {self.last_heard}"

    def live(self) -> None:
        """From the beginning to the end that is meant for it."""
        options = {"max_downloads": self.life.max_downloads} if self.life.max_downloads else {}
        announced = [_announced(one) for one in self.life.files]
        self.sent = self._begin(announced, options)
        self._must_become("INIT", "DELETED")
        {
            "send": self._send,
            "interrupted": self._send_with_an_interruption,
            "rearranged": self._rearrange_and_send,
            "cancelled": self._cancel,
            "late bytes": self._cancel_and_go_on,
            "deleted at once": self._delete_at_once,
            "abandoned": self._abandon,
            "unfinished": self._leave_unfinished,
        }[self.life.kind]()

    def _begin(self, files: list[dict[str, Any]], options: dict[str, Any]) -> Sent:
        key = hashlib.sha256(self.life.extra.seed.encode()).hexdigest()
        body = {"files": files, "title": f"life {self.life.number}", **options}
        answer = self.person.insist("POST", "/transfers", body, **{"Idempotency-Key": key})
        _expect(answer, 201)
        self.memory.count("transfers")
        return Sent(answer.json, {})

    def _must_become(self, *states: str) -> None:
        self.memory.fates[self.sent.id] = set(states)

    # -- kinds ---------------------------------------------------------------------------------

    def _send(self) -> None:
        first, *others = self.sent.json["files"]
        self._upload([first])
        self._name([first])
        self._upload(others)
        if self.life.is_edited:
            self._edit()
        self._take_early(first)
        self._finish()
        self._receive()

    def _send_with_an_interruption(self) -> None:
        first, *others = self.sent.json["files"]
        self._upload([first], without_last=True)
        self._upload(others)
        # Not quite true of the first.
        self._name(self.sent.json["files"])
        # However late it is checked and whoever still waits for that: this can only come back.
        self._complete("INIT")
        self.step = "waiting to be told what is missing"
        shown = self._wait_for("INIT", "READY")
        problem = {one["path"]: one["problem"] for one in shown["files"]}[first["path"]]
        assert shown["status"] == "INIT", shown
        assert problem or shown["problem"], shown
        self._send_again(shown)
        self._receive()

    def _rearrange_and_send(self) -> None:
        self._upload(self.sent.json["files"])
        self._name(self.sent.json["files"])
        self.step = "taking a file out"
        gone = self.sent.json["files"][0]
        _expect(self._call("DELETE", f"/files/{gone['id']}"), 204, 404)
        self.files.pop(gone["path"])
        self.step = "putting a file in"
        extra = self.life.extra
        added = {"files": [_announced(extra)]}
        # Refused as "there twice" when it was added and only the answer was lost.
        _expect(self._call("POST", "/files", added), 201, 400)
        self.files[extra.path] = extra
        self.sent.json |= self._show()
        assert {one["path"] for one in self.sent.json["files"]} == set(self.files)
        self._upload([one for one in self.sent.json["files"] if one["path"] == extra.path])
        self._finish()
        self._receive()

    def _cancel(self) -> None:
        self._upload(self.sent.json["files"], without_last=True)
        self._name(self.sent.json["files"])
        self._delete()

    def _cancel_and_go_on(self) -> None:
        parts = self._sign(self.sent.json["files"], without_last=False)
        self._delete()
        self._wait_for_a_removal()
        self.step = "sending what nobody wants"
        for url, body, headers in parts:
            assert put(url, body, headers) in (200, 404, 412)

    def _wait_for_a_removal(self) -> None:
        """Until a sweep has been there once, if one comes soon: what arrives now must go too."""
        self.step = "waiting for a sweep"
        query = (
            "SELECT count(*) FROM files f JOIN uploads u ON u.id = f.upload_id"
            " WHERE f.transfer_id = %s AND u.removed_at IS NULL"
            " AND u.remove_after < now() + interval '5 seconds'"
        )
        for _ in range(16):
            if ask(self.lab, query, self.sent.id) == [(0,)]:
                self.memory.count("deletions with bytes after the removal")
                return
            time.sleep(0.5)

    def _delete_at_once(self) -> None:
        self._upload(self.sent.json["files"])
        self._complete()
        self._delete()

    def _abandon(self) -> None:
        self._upload(self.sent.json["files"], without_last=True)
        self.step = "letting a day pass"
        self._change("last_activity_at = now() - interval '30 hours'", "INIT")
        self._must_become("DELETED")

    def _leave_unfinished(self) -> None:
        self._upload(self.sent.json["files"], without_last=True)
        self._name(self.sent.json["files"])
        self.step = "asking what arrived"
        _expect(self._call("GET", "/parts"), 200)
        self._must_become("INIT")

    # -- sending -------------------------------------------------------------------------------

    def _upload(self, files: list[dict[str, Any]], *, without_last: bool = False) -> None:
        self.step = "sending parts"
        for url, body, headers in self._sign(files, without_last=without_last):
            status = put(url, body, headers)
            # 412: it is there already, and cannot be overwritten; only the answer was lost.
            assert status in (200, 412), f"storage said {status}"
            self.memory.count("bytes sent", len(body))

    def _sign(
        self, files: list[dict[str, Any]], *, without_last: bool
    ) -> list[tuple[str, bytes, dict[str, str]]]:
        wanted = []
        for file in files:
            numbers = list(range(1, file["part_count"] + 1))
            if without_last:
                numbers.pop()
            if numbers:
                wanted.append(self._wanted(file, numbers))
        if not wanted:
            return []
        answer = self._call("POST", "/parts", {"wanted": wanted})
        _expect(answer, 200)
        by_id = {file["id"]: file for file in files}
        contents = {file["id"]: self.files[file["path"]].content() for file in files}
        parts = []
        for part in answer.json["parts"]:
            body = _piece(contents[part["file"]], by_id[part["file"]], part["number"])
            assert len(body) == part["size"]
            parts.append((part["url"], body, part["headers"]))
        return parts

    def _wanted(self, file: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
        wanted = {"file": file["id"], "numbers": numbers}
        if not file["checksum_algorithm"]:
            return wanted
        content = self.files[file["path"]].content()
        return wanted | {"crc32": [_crc32_of(_piece(content, file, n)) for n in numbers]}

    def _name(self, files: list[dict[str, Any]]) -> None:
        """Half of them say what they have sent, true or not, before all of it is there."""
        if self.life.number % 2:
            return
        self.step = "naming what was sent"
        body = {"wanted": [], "sent": [file["id"] for file in files]}
        _expect(self._call("POST", "/parts", body), 200)
        self.memory.count("files named early", len(files))

    def _take_early(self, file: dict[str, Any]) -> None:
        """Somebody would not wait: they get the whole file, or are told that it is not there."""
        self.step = "taking a file early"
        visitor = Person(self.lab.stack, self.memory.heard)
        for _ in range(4):
            _expect(visitor.insist("GET", self.sent.page), 200)
            answer = visitor.insist("GET", f"{self.sent.page}/files/{file['id']}", **AGENT)
            # 410: the first answer was lost, before there was a button to be known by.
            _expect(answer, 303, 409, *([410] if self.life.max_downloads else []))
            if answer.status != 409 or self.life.number % 2:
                break
            time.sleep(1)
        if answer.status == 303:
            self.memory.count("downloads before the rest had arrived")
            self._check_bytes([answer.headers["Location"], *[None] * (len(self.files) - 1)])

    def _edit(self) -> None:
        self.step = "editing"
        later = (datetime.now(UTC) + timedelta(days=20)).isoformat()
        changes = {"title": "changed", "message": "äöü\n\U0001f41d", "expires_at": later}
        answer = self._call("PATCH", "", changes)
        _expect(answer, 200)
        assert answer.json["title"] == "changed"

    def _finish(self) -> None:
        self._complete()
        shown = self._wait_for("INIT", "READY")
        if shown["status"] == "INIT":
            self._send_again(shown)

    def _complete(self, *fate: str) -> None:
        self.step = "saying that this is all"
        if self.life.is_crowded:
            answers = _at_once(lambda _: self._call("POST", "/complete", {}), 3)
        else:
            answers = [self._call("POST", "/complete", {})]
        for answer in answers:
            _expect(answer, 202)
        self._must_become(*(fate or ("READY",)))

    def _send_again(self, shown: dict[str, Any]) -> None:
        """As a browser does: what is named as missing is sent once more, until it is READY."""
        for _ in range(5):
            self.memory.count("sent back")
            self._upload([one for one in shown["files"] if one["problem"]])
            self._complete()
            shown = self._wait_for("INIT", "READY")
            if shown["status"] == "READY":
                return
        raise AssertionError(f"sent back again and again: {shown}")

    def _wait_for(self, *states: str) -> dict[str, Any]:
        self.step = f"waiting for {' or '.join(states)}"
        began, pause, seen = time.monotonic(), 0.2, list[str]()
        while (shown := self._show())["status"] not in states:
            waited = time.monotonic() - began
            assert waited < READY_SECONDS, f"still {shown['status']}, {'; '.join(seen)}"
            if waited > LONG_SECONDS * (1 + len(seen) / 2):
                told = f"{tell_row(self.lab, self.sent.id)}; {tell_queue(self.lab)}"
                seen.append(f"at {self.memory.passed:.0f} s {told}")
            time.sleep(pause)
            pause = min(1.5, 1.5 * pause)
        self.memory.note_wait(time.monotonic() - began, seen)
        return shown

    # -- receiving -----------------------------------------------------------------------------

    def _receive(self) -> None:
        self.memory.count("ready")
        self.sent.json |= self._show()
        self._check_checksums()
        for _ in range(self.life.visits):
            if self.life.is_crowded:
                self._visit_in_a_crowd()
            else:
                self._visit()
        if self.life.wants_zip:
            self._take_the_zip()
        {
            "keep": lambda: None,
            "delete": self._delete,
            "expire": self._expire,
            "expire and go": lambda: self._expire(and_go=True),
        }[self.life.ending]()

    def _check_checksums(self) -> None:
        for file in self.sent.json["files"]:
            if file["checksum_algorithm"]:
                whole = zlib.crc32(self.files[file["path"]].content())
                assert file["crc32"] == f"{whole:08x}", f"{file} should have {whole:08x}"
                self.memory.count("files verified")

    def _visit(self) -> None:
        """One browser that looks, and takes every file: counted once, or told that it is over."""
        self.step = "visiting"
        visitor = Person(self.lab.stack, self.memory.heard)
        page = visitor.insist("GET", self.sent.page)
        _expect(page, 200, 410)
        links = [self._click(visitor, file) for file in self.sent.json["files"]]
        if page.status == 200:
            # The answer to the first click may be lost, but then it was counted for this visitor.
            assert all(links) or not any(links), "some files and others not"
        self._check_bytes(links)

    def _visit_in_a_crowd(self) -> None:
        """Several at the same time, each counted: never more than the limit."""
        self.step = "visiting in a crowd"
        file = self.sent.json["files"][0]
        before = self._show()["download_count"]
        people = [Person(self.lab.stack, self.memory.heard) for _ in range(4)]
        links = _at_once(lambda n: self._click(people[n], file), 4)
        limit = self.life.max_downloads
        given = sum(link is not None for link in links)
        if limit is not None:
            assert given <= limit - before, f"{given} links, {before} of {limit} were used"
            if given < 4:
                assert self._show()["download_count"] == limit
        else:
            assert given == 4
        self._check_bytes([next(filter(None, links), None), *[None] * (len(self.files) - 1)])

    def _take_the_zip(self) -> None:
        """As curl does: the same address again and again until it leads to storage."""
        self.step = "waiting for the zip"
        visitor = Person(self.lab.stack, self.memory.heard)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            answer = visitor.ask("GET", f"{self.sent.page}/zip", **AGENT)
            if answer.status == 410:
                assert self.life.max_downloads is not None
                return
            where = answer.headers.get("Location", "") if answer.status == 303 else ""
            if "X-Amz-Signature" in where:
                break
            assert time.monotonic() < deadline, f"no zip, {answer}"
            time.sleep(0.3)
        self.step = "looking into the zip"
        with zipfile.ZipFile(io.BytesIO(self._fetch(where))) as opened:
            found = sorted(opened.read(name) for name in opened.namelist())
        assert found == sorted(file.content() for file in self.files.values()), "bytes differ"
        self.memory.count("zips")

    def _click(self, visitor: Person, file: dict[str, Any]) -> str | None:
        """Where storage serves the file; None when the link has nothing more to give."""
        answer = visitor.insist("GET", f"{self.sent.page}/files/{file['id']}", **AGENT)
        _expect(answer, 303, 410)
        where = answer.headers.get("Location", "/")
        return where if answer.status == 303 and "X-Amz-Signature" in where else None

    def _check_bytes(self, links: list[str | None]) -> None:
        for file, link in zip(self.sent.json["files"], links, strict=True):
            if link is None:
                continue
            self.step = f"downloading {file['path']}"
            body = self._fetch(link)
            expected = self.files[file["path"]].content()
            assert hashlib.sha256(body).digest() == hashlib.sha256(expected).digest(), (
                "bytes differ"
            )
            self.memory.count("downloads")

    def _fetch(self, link: str) -> bytes:
        for _ in range(60):
            with contextlib.suppress(Exception):
                status, body = get(link)
                if status < 500:
                    assert status == 200, f"storage said {status}"
                    return body
            time.sleep(0.3)
        raise AssertionError("storage does not give it")

    # -- ending --------------------------------------------------------------------------------

    def _delete(self) -> None:
        self.step = "deleting"
        _expect(self._call("DELETE"), 204, 410)
        self._must_become("DELETED")
        self._is_over()

    def _expire(self, *, and_go: bool = False) -> None:
        self.step = "letting it expire"
        self._change("expires_at = now() - interval '1 second'", "READY")
        self._must_become("DELETED" if and_go else "EXPIRED")
        self._is_over()
        if and_go:
            with self.memory.lock:
                self.memory.to_go.append(self.sent.id)

    def _is_over(self) -> None:
        """From this moment on the link gives nothing to anybody."""
        self.step += ", and looking again"
        _expect(self.person.insist("GET", self.sent.page), 410)
        stranger = Person(self.lab.stack, self.memory.heard)
        file = self.sent.json["files"][0]
        answer = stranger.insist("GET", f"{self.sent.page}/files/{file['id']}", **AGENT)
        _expect(answer, 410)

    def _change(self, values: str, state: str) -> None:
        """Move the row's dates, as if time had passed."""
        query = f"UPDATE transfers SET {values} WHERE id = %s AND state = '{state}'"
        ask(self.lab, query, self.sent.id)

    def _show(self) -> dict[str, Any]:
        answer = self._call("GET")
        _expect(answer, 200)
        return answer.json

    def _call(self, method: str, path: str = "", body: Any = None) -> Answer:
        answer = self.person.call(self.sent, method, path, body)
        self.last_heard = f"at {self.memory.passed:.0f} s {answer} {answer.body[:200]!r}"
        return answer


def _announced(file: FilePlan) -> dict[str, Any]:
    wanted = {"checksum_algorithm": "CRC32"} if file.is_verified else {}
    return {"path": file.path, "size": file.size} | wanted


def _piece(content: bytes, file: dict[str, Any], number: int) -> bytes:
    start = (number - 1) * file["part_size"]
    return content[start : start + file["part_size"]]


def _crc32_of(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def _expect(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, f"{answer} {answer.body[:300]!r}"


def _at_once(act: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))
