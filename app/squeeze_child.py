"""Squeezes scripts and style sheets: names and texts as JSON on stdin, the same on stdout.

A child of app/static_files.py, started for this alone: the library brings the runtime of Go with
it, whose threads and signal handlers no process that serves or forks has to live with.
"""

import json
import sys
from pathlib import PurePath

import minify

KINDS = {".js": "application/javascript", ".css": "text/css"}


def squeeze(name: str, text: str) -> str:
    """One file without what only its readers need: comments, white space, long local names."""
    squeezed: str = minify.string(KINDS[PurePath(name).suffix], text)
    return squeezed


if __name__ == "__main__":
    texts = json.load(sys.stdin)
    json.dump({name: squeeze(name, text) for name, text in texts.items()}, sys.stdout)
