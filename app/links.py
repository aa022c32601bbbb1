"""Public URLs, made without a request: always from BASE_URL, never from a Host header."""

import uuid
from urllib.parse import quote

from app.config import settings


def transfer_url(slug: str) -> str:
    """The link a sender shares."""
    return f"{settings.base_url}/d/{slug}"


def program_url() -> str:
    """Where the command-line program is downloaded."""
    return f"{settings.base_url}/cli"


def board_url(slug: str) -> str:
    """A board's public page."""
    return f"{settings.base_url}/b/{slug}"


def request_url(slug: str) -> str:
    """Where anyone can send files to whoever asked for them."""
    return f"{settings.base_url}/r/{slug}"


def report_url(number: int) -> str:
    """Where an admin sees a report, and blocks what it is about."""
    return f"{settings.base_url}/admin/reports/{number}"


def file_url(slug: str, file_id: uuid.UUID) -> str:
    """The download of one file of a link; fetching it counts as a download."""
    return f"{transfer_url(slug)}/files/{file_id}"


def zip_url(slug: str, turn: int = 0) -> str:
    """The download of all files of a link as one zip; fetching it counts as a download.

    `turn` is how often a client that waits for the zip has been redirected here already.
    """
    return f"{transfer_url(slug)}/zip" + (f"?turn={turn}" if turn else "")


def path_url(slug: str, path: str) -> str:
    """The download of one file by its path; safe in any shell between double quotes."""
    return f"{transfer_url(slug)}/{quote(path)}"


def manage_url(token: str) -> str:
    """The sender's page with everything about one transfer."""
    return f"{settings.base_url}/m/{token}"


def extend_url(seal: str) -> str:
    """A page with one button, which extends a transfer."""
    return f"{settings.base_url}/m/extend/{seal}"


def webhooks_url() -> str:
    """The page where a workspace's webhooks are managed."""
    return f"{settings.base_url}/workspace/webhooks"


def opt_out_url(seal: str) -> str:
    """A page with one button, which opts an address out of all mail."""
    return f"{settings.base_url}/u/{seal}"
