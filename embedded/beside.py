"""Run one command beside what `make run` runs, with the same database, queue and bucket.

    python -m embedded.beside flask keys list

The runner leaves what it tells its processes in `var/environment.json` for as long as it runs.
Addresses of real services that were set for `make run` are to be set here too.
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
        environment = json.loads(kept.read_text())
    except FileNotFoundError:
        print("Beeline does not run here. Start it with `make run` in another terminal.")
        return 1
    env = os.environ | environment
    os.execvpe(words[0], words, env)  # noqa: S606 - no shell is wanted
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
