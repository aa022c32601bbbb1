"""Who may open the admin page: whoever has signed in with one of ADMIN_EMAILS, not long ago.

There is no account of an admin, and no password. Looking needs a sign-in of today, and changing
something a recent one (sign_ins.SignIn.is_recent).
"""

from dataclasses import dataclass
from datetime import timedelta

from app.config import settings
from app.services import sign_ins

LOOK_HOURS = 12


@dataclass(frozen=True)
class Admin:
    """An admin who is signed in, and whether that was recently enough to look and to change."""

    email: str
    may_look: bool
    may_change: bool


def is_admin(email: str) -> bool:
    """Whether the owner of this address, spelled as rows hold it, is an admin."""
    return settings.sends_mail and email in settings.admin_emails


def admin_of(word: str | None) -> Admin | None:
    """The admin whose sign-in this token stands for; None if it is nobody's, or no admin's."""
    found = sign_ins.sign_in_of(word)
    if found is None or not is_admin(found.email):
        return None
    return Admin(
        found.email,
        may_look=found.age < timedelta(hours=LOOK_HOURS),
        may_change=found.is_recent,
    )
