"""Run one command beside a running `make run`, with its settings, database, queue and bucket.

    python -m embedded.beside flask keys list

While it runs, the runner keeps its environment in `var/environment.json`: what it was given, and
what it adds for its processes. The command's own environment overrides the former, not the latter.
"""

import json
import os
import sys
from pathlib import Path

from embedded.var import ENVIRONMENT


def main(words: list[str]) -> int:
    """Become the command; returns 1 if nothing is running, 2 if no command is given."""
    if not words:
        print(f"usage: {sys.argv[0]} COMMAND...", file=sys.stderr)
        return 2
    kept = Path(os.environ.get("BEELINE_VAR") or "var") / ENVIRONMENT
    try:
        told = json.loads(kept.read_text())
    except FileNotFoundError:
        print("Beeline does not run here. Start it with `make run` in another terminal.")
        return 1
    env = told["given"] | os.environ | told["own"]
    os.execvpe(words[0], words, env)  # noqa: S606 - no shell is wanted
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
