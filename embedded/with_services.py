"""Run one command with embedded services that live as long as it does.

    python -m embedded.with_services postgres -- flask db check

The data is discarded afterwards. The application refuses to start without all of its settings, so
missing ones get placeholders that lead nowhere.
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

from embedded.services import started
from embedded.var import Refused

MADE_UP = {
    "SECRET_KEY": secrets.token_urlsafe(48),
    "BASE_URL": "http://127.0.0.1:8000",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "S3_BUCKET": "none",
}


def main(words: list[str]) -> int:
    """Run the command and return its exit code; 1 if a service did not start, 2 for wrong usage."""
    if "--" not in words:
        print(f"usage: {sys.argv[0]} SERVICE... -- COMMAND...", file=sys.stderr)
        return 2
    at = words.index("--")
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    try:
        with started(words[:at]) as given:
            env = {**MADE_UP, **os.environ, **given, "PATH": tools}
            return subprocess.run(words[at + 1 :], env=env, check=False).returncode
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
