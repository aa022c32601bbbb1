"""/cli: downloads the command-line program, configured for this installation."""

import json
from functools import lru_cache
from pathlib import Path

from flask import Blueprint, Response, request

from app.api.auth import anyone
from app.config import settings
from app.problems import speaks, text_problem

bp = Blueprint("program", __name__)
speaks("/cli")(text_problem)

PROGRAM = Path(__file__).parents[2] / "cli" / "beeline.py"
# The server named in its help text, and the line that sets its default server.
_EXAMPLE = "https://send.example.org"
_DEFAULT = 'DEFAULT_SERVER = ""\n'


@bp.get("/cli")
@anyone
def download_program() -> Response:
    """Return one self-contained Python file, with this installation as its default server."""
    answer = Response(_program(settings.base_url), mimetype="text/x-python")
    answer.headers["Content-Disposition"] = 'inline; filename="beeline"'
    answer.headers["Cache-Control"] = "no-cache"
    answer.add_etag()
    answer.make_conditional(request)
    return answer


@lru_cache(maxsize=2)
def _program(base_url: str) -> str:
    # A JSON string is a Python string too, and the setting has been validated as a URL.
    default = f"DEFAULT_SERVER = {json.dumps(base_url)}\n"
    return PROGRAM.read_text().replace(_EXAMPLE, base_url).replace(_DEFAULT, default)
