"""Public addresses, made without a request: always from the setting, never from a Host header."""

import uuid
from urllib.parse import quote

from app.config import settings


def transfer_url(slug: str) -> str:
    """The link a sender shares."""
    return f"{settings.base_url}/d/{slug}"


def program_url() -> str:
    """Where the command line's program is downloaded."""
    return f"{settings.base_url}/cli"


def board_url(slug: str) -> str:
    """The address of a board, for whoever is shown it."""
    return f"{settings.base_url}/b/{slug}"


def file_url(slug: str, file_id: uuid.UUID) -> str:
    """One file of a link: counts as a download when it is fetched."""
    return f"{transfer_url(slug)}/files/{file_id}"


def zip_url(slug: str, turn: int = 0) -> str:
    """All files of a link as one zip: counts as a download when it is fetched.

    `turn` tells how often whoever waits for it has been led here before.
    """
    return f"{transfer_url(slug)}/zip" + (f"?turn={turn}" if turn else "")


def path_url(slug: str, path: str) -> str:
    """The same by its path; good in any shell between double quotes."""
    return f"{transfer_url(slug)}/{quote(path)}"


def manage_url(token: str) -> str:
    """What only a sender has: everything about one transfer."""
    return f"{settings.base_url}/m/{token}"


def extend_url(seal: str) -> str:
    """A page with one button, which gives a transfer more time."""
    return f"{settings.base_url}/m/extend/{seal}"


def webhooks_url() -> str:
    """The page on which a workspace's webhooks are looked after."""
    return f"{settings.base_url}/workspace/webhooks"


def opt_out_url(seal: str) -> str:
    """A page with one button, after which there is no mail to one address any more."""
    return f"{settings.base_url}/u/{seal}"
