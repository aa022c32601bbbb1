"""Run one command beside what `make run` runs, with its settings, database, queue and bucket.

    python -m embedded.beside flask keys list

While it runs, the runner keeps its environment in `var/environment.json`: what it was given, and
what it adds for its processes. What is set for the command itself comes before what was given.
"""

import json
import os
import sys
from pathlib import Path

from embedded.var import ENVIRONMENT


def main(words: list[str]) -> int:
    """Become the command; 1 where nothing runs, 2 where no command is named."""
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
