"""What our JSON routes offer, as app/api/openapi.yaml says it: read once in each process."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).parent / "api" / "openapi.yaml"


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The description as it was written, with its references; nobody may change it."""
    # libyaml where there is one: ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    said: dict[str, Any] = yaml.load(PATH.read_text(), loader)  # noqa: S506  both are safe
    return said


@lru_cache(maxsize=1)
def as_json() -> bytes:
    """The same as it is served."""
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()
