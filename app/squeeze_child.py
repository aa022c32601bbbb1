"""Minifies scripts and style sheets: names and texts as JSON on stdin, the same on stdout.

A child process of app/static_files.py, because the library brings the Go runtime, whose threads and
signal handlers must stay out of processes that serve or fork.
"""

import json
import sys
from pathlib import PurePath

import minify

KINDS = {".js": "application/javascript", ".css": "text/css"}


def squeeze(name: str, text: str) -> str:
    """Minify one file: no comments, no white space, short local names."""
    squeezed: str = minify.string(KINDS[PurePath(name).suffix], text)
    return squeezed


if __name__ == "__main__":
    texts = json.load(sys.stdin)
    json.dump({name: squeeze(name, text) for name, text in texts.items()}, sys.stdout)
