"""What tests of /v2 send, and how an error of it looks."""

from typing import Any

from app.config import MIB

NOWHERE = "00000000-0000-4000-8000-000000000000"
CHUNK, BOARD_CHUNK = 5 * MIB, 6 * MIB
JSON = {"content_type": "application/json"}
FILE = {"name": "a", "size": 1}


def told(answer: Any) -> tuple[int, str]:
    """Status and message, of a body that is an error and nothing but."""
    assert set(answer.json) == {"success", "message"}, answer.text
    assert answer.json["success"] is False
    assert answer.content_type == "application/json"
    return answer.status_code, answer.json["message"]
