"""Public addresses, made without a request: always from the setting, never from a Host header."""

from app.config import settings


def transfer_url(slug: str) -> str:
    """The link a sender shares."""
    return f"{settings.base_url}/d/{slug}"
