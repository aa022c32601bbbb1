"""The OpenAPI description of our JSON routes (app/api/openapi.yaml), read once per process."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).parent / "api" / "openapi.yaml"


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The parsed description, its references unresolved. Callers must not change it."""
    # libyaml, if available, is ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    said: dict[str, Any] = yaml.load(PATH.read_text(), loader)  # noqa: S506  both are safe
    return said


@lru_cache(maxsize=1)
def as_json() -> bytes:
    """The description as compact JSON, as it is served."""
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()
