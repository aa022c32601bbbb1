"""What the web process does for an upload, against Uppy Companion: one process of each.

Both have the same routes, so both get the same requests: create a multipart upload, sign one part,
sign a hundred. Beeline is asked for a hundred by its own API as well. It looks up the API key,
counts its calls, looks up the upload and records that URLs were handed out; Companion checks
nothing and signs any upload it is asked for.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from benchmarks import peers
from benchmarks.knobs import GIB, text
from benchmarks.peers import HERE
from benchmarks.place import PEERS, Place, cpu_seconds, opened
from benchmarks.turns import Rounds, Turn, figure, median, ratio, say, table, take_turns
from tests.lab.stack import family, kill_family

THEIRS, OURS, OWN = "Companion", "Beeline", "Beeline, its own API"
CREATE, ONE, BATCH = "create", "sign one part", "sign 100 parts"
# One for each thread of a Beeline's web process; each has an upload of its own.
CONNECTIONS = 8
PARTS = 100
WARM_SECONDS = 1.0
SERVICES = {"postgres", "redis-server"}
Request = tuple[str, str, str | None]
_FILE = {"filename": "holiday.mov", "type": "video/quicktime", "metadata": {}}
NEW: Request = ("POST", "/s3/multipart", json.dumps(_FILE))


@dataclass(frozen=True)
class Web:
    """One web process, and the headers of every request to it."""

    port: int
    pid: int
    headers: dict[str, str]

    def say(self, method: str, path: str, body: str | None = None) -> Any:
        """Send one request and return its answer, parsed as JSON."""
        data = None if body is None else body.encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, self.headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def cpu_seconds(self) -> float:
        """CPU seconds used by the process and everything in its session."""
        return sum(map(cpu_seconds, family(self.pid)))


@dataclass(frozen=True)
class Act:
    """The requests that each of several connections sends to a web process, again and again."""

    web: Web
    connections: list[list[Request]]
    status: int = 200

    def once(self) -> Any:
        """Send the first request and return its answer."""
        return self.web.say(*self.connections[0][0])

    def turn(self, seconds: float) -> Turn:
        """Repeat it for this many seconds; the turn holds time and CPU per thousand answers."""
        question = {"port": self.web.port, "headers": self.web.headers, "seconds": seconds}
        question |= {"status": self.status, "connections": self.connections}
        asked = json.dumps(question)
        words = [sys.executable, "-m", "benchmarks.asker"]
        web, services = self.web.cpu_seconds(), _services_seconds()
        done = subprocess.run(words, input=asked, capture_output=True, text=True, check=False)
        web, services = self.web.cpu_seconds() - web, _services_seconds() - services
        if done.returncode:
            raise RuntimeError(done.stderr)
        told = json.loads(done.stdout)
        thousands = told["answers"] / 1000
        more = {"web": web / thousands, "services": services / thousands}
        return Turn(told["seconds"] / thousands, more)


def run() -> None:
    """Run each act for COMPANION_SECONDS (2) with each of them in turn, then print a table."""
    if not peers.fetch_uppy():
        return
    with (
        tempfile.TemporaryDirectory() as data,
        opened(Path(data), "s3") as place,
        _companion(place) as theirs,
    ):
        ours = _beeline(place)
        rows = []
        for words, acts in _acts(theirs, ours).items():
            say(f"   {words}, a thousand times:")
            rows += _rows(words, _compare(acts))
    head = ["", "a second", f"x {THEIRS}", "web's CPU us", f"x {THEIRS}", "services' CPU us"]
    table("what one web process answers, medians", head, rows)


def _acts(theirs: Web, ours: Web) -> dict[str, dict[str, Act]]:
    """The acts, by what is done and by who does it. Each was tried once, and its answer checked."""
    acts: dict[str, dict[str, Act]] = {CREATE: {}, ONE: {}, BATCH: {}}
    for name, web in ((THEIRS, theirs), (OURS, ours)):
        acts[CREATE][name] = create = Act(web, [[NEW]] * CONNECTIONS)
        made = [create.once() for _ in range(CONNECTIONS)]
        acts[ONE][name] = one = Act(web, [list(_ones(upload)) for upload in made])
        acts[BATCH][name] = batch = Act(web, [[_hundred(upload)] for upload in made])
        _check([one.once()["url"]], 1)
        _check(list(batch.once()["presignedUrls"].values()), PARTS)
    acts[BATCH][OWN] = own = Act(ours, [[_own_hundred(ours)] for _ in range(CONNECTIONS)])
    parts = own.once()["parts"]
    _check([part["url"] for part in parts], PARTS, bytes(parts[-1]["size"]))
    return acts


def _ones(made: Any) -> Iterator[Request]:
    query = urlencode({"key": made["key"]})
    for number in range(1, PARTS + 1):
        yield "GET", f"{_address(made)}/{number}?{query}", None


def _hundred(made: Any) -> Request:
    numbers = ",".join(map(str, range(1, PARTS + 1)))
    query = urlencode({"key": made["key"], "partNumbers": numbers}, safe=",")
    return "GET", f"{_address(made)}/batch?{query}", None


def _address(made: Any) -> str:
    return f"/s3/multipart/{quote(made['uploadId'], safe='')}"


def _own_hundred(web: Web) -> Request:
    """The request for 100 parts of a transfer whose only file has more."""
    files = [{"path": "holiday.mov", "size": 10 * GIB}]
    made = web.say("POST", "/transfers", json.dumps({"files": files}))
    wanted = {"file": made["files"][0]["id"], "numbers": list(range(1, PARTS + 1))}
    return "POST", f"/transfers/{made['id']}/parts", json.dumps({"wanted": [wanted]})


def _check(urls: Sequence[str], count: int, part: bytes = b"a part") -> None:
    """Raise unless `count` URLs were signed and storage accepts the part at the last one."""
    if len(set(urls)) != count:
        raise RuntimeError(f"{len(set(urls))} addresses were signed, not {count}")
    request = urllib.request.Request(urls[-1], part, method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def _compare(acts: dict[str, Act]) -> Rounds:
    for act in acts.values():
        act.turn(WARM_SECONDS)
    seconds = float(text("COMPANION_SECONDS", "2"))
    return take_turns({name: partial(act.turn, seconds) for name, act in acts.items()})


def _rows(words: str, rounds: Rounds) -> list[list[str]]:
    rows = []
    base = rounds.get(THEIRS, [])
    for name, turns in rounds.items():
        took, cpu, services = median(turns), median(turns, "web"), median(turns, "services")
        rows.append(
            [
                f"{words}: {name}",
                figure(1000 / took if took else None),
                ratio(median(base), took),
                figure(cpu and cpu * 1000),
                ratio(median(base, "web"), cpu),
                figure(None if services is None or name == THEIRS else services * 1000),
            ]
        )
    return rows


# -- the two servers ---------------------------------------------------------------------------


@contextlib.contextmanager
def _companion(place: Place) -> Generator[Web]:
    """Companion in one process of Node, with a bucket and a folder of its own."""
    place.make_peers_bucket()
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    node = shutil.which("node", path=tools)
    if node is None:
        raise RuntimeError("node is missing")
    with tempfile.TemporaryDirectory() as files:
        settings = {"NODE_ENV": "production", "BUCKET": PEERS, "FILES": files}
        process = subprocess.Popen(
            [node, "companion.mjs"],
            cwd=HERE,
            env=os.environ | place.environ | settings,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield Web(port, process.pid, {"Content-Type": "application/json"})
        finally:
            kill_family(process)


def _beeline(place: Place) -> Web:
    """One web process of Beeline, and an API key with a quota that is never reached."""
    stack = place.beeline(MAX_CALLS_PER_KEY_AND_DAY="1000000000")
    words = ["flask", "keys", "issue", "--workspace", "benchmarks", "--name", "benchmarks"]
    done = subprocess.run(words, env=stack.environ, check=True, capture_output=True, text=True)
    headers = {"Content-Type": "application/json", "x-api-key": done.stdout.strip()}
    return Web(urlsplit(stack.url).port or 0, stack.running["web"].pid, headers)


def _services_seconds() -> float:
    """CPU seconds of PostgreSQL and Redis, as far as they were started here."""
    names: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            head, _, rest = (entry / "stat").read_text().rpartition(")")
            names[int(entry.name)] = head.partition("(")[2]
            children.setdefault(int(rest.split()[1]), []).append(int(entry.name))
    found, waiting = 0.0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        found += cpu_seconds(pid) if names.get(pid) in SERVICES else 0
    return found
