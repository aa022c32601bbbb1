"""What the recipient's page costs one web process when it polls how far the files are.

The page polls every few seconds. When nothing has changed it is answered 304 after a look at the
rows; otherwise everything is selected and the fragment is rendered, which is the baseline.
"""

import json
import tempfile
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.companion import CONNECTIONS, WARM_SECONDS, Act, Request, Web
from benchmarks.knobs import MIB, text
from benchmarks.place import Place, opened
from benchmarks.turns import figure, median, ratio, table, take_turns

FILES = 20
UNCHANGED, RENDERED = "unchanged (304)", "selected and rendered"


def run() -> None:
    """Run each for POLL_SECONDS (2) in turn, on a transfer of twenty files still being uploaded."""
    with tempfile.TemporaryDirectory() as data, opened(Path(data), "s3") as place:
        acts = _acts(place)
        for act in acts.values():
            act.turn(WARM_SECONDS)
        seconds = float(text("POLL_SECONDS", "2"))
        rounds = take_turns({name: partial(act.turn, seconds) for name, act in acts.items()})
    base = rounds.get(RENDERED, [])
    rows = []
    for name, turns in rounds.items():
        took, cpu = median(turns), median(turns, "web")
        rows.append(
            [
                name,
                figure(1000 / took if took else None),
                ratio(median(base), took),
                figure(cpu and cpu * 1000),
                ratio(median(base, "web"), cpu),
            ]
        )
    head = ["", "a second", "x rendered", "web's CPU us", "x rendered"]
    table("polls that one web process answers, medians", head, rows)


def _acts(place: Place) -> dict[str, Act]:
    stack = place.beeline()
    json_of = {"Content-Type": "application/json"}
    maker = Web(urlsplit(stack.url).port or 0, stack.running["web"].pid, json_of)
    files = [{"path": f"{number}.mov", "size": 100 * MIB} for number in range(FILES)]
    made = maker.say("POST", "/transfers", json.dumps({"files": files}))
    path = urlsplit(made["link"]).path
    asks = {"HX-Request": "true", "Accept": "text/html"}
    request = urllib.request.Request(stack.url + path, headers=asks)
    with urllib.request.urlopen(request, timeout=30) as answer:
        knows = asks | {"If-None-Match": answer.headers["ETag"]}
    polls: list[list[Request]] = [[("GET", path, None)]] * CONNECTIONS
    return {
        RENDERED: Act(replace(maker, headers=asks), polls),
        UNCHANGED: Act(replace(maker, headers=knows), polls, status=304),
    }
