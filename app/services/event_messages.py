"""Parses messages of the event queue: shares of a transfer, and bounces and complaints from SES.

Each comes bare or in an SNS envelope. Nothing here does any I/O.
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app import addresses

SHARED = "TRANSFER_SHARED"
# More than any transfer may have: a longer list is not from a program that we know.
MOST_EMAILS = 1000
# Bo <bo@example.org>: SES repeats an address as it was in To.
_NAMED = re.compile(r"^[^<>\x00-\x1f]*<([^<>]+)>$")


class Unreadable(ValueError):
    """The message can never be processed; says why, without quoting it."""


@dataclass(frozen=True)
class Shared:
    """These addresses are to be mailed about a transfer."""

    transfer_id: uuid.UUID
    emails: Sequence[str]


@dataclass(frozen=True)
class CameBack:
    """Mail to these addresses bounced: pairs of address and reason."""

    reasons: Sequence[tuple[str, str]]
    is_for_good: bool
    server_id: str | None


@dataclass(frozen=True)
class Complained:
    """These addresses reported our mail as spam."""

    emails: Sequence[str]


@dataclass(frozen=True)
class Other:
    """Nothing to act on: a mail was delivered, or another program's event."""

    kind: str


Notice = Shared | CameBack | Complained | Other


def read(body: str) -> Notice:
    """Parse a message; raises Unreadable."""
    told = _object(body)
    if told.get("Type") == "Notification" and isinstance(told.get("Message"), str):
        told = _object(told["Message"])
    # Our own events; SES events from a configuration set; SES feedback on an identity.
    kind = told.get("event_type") or told.get("eventType") or told.get("notificationType")
    if not isinstance(kind, str):
        raise Unreadable("it says of no kind what it is")
    if kind == SHARED:
        return Shared(_id(told.get("transfer_id")), _addresses(_list(told, "emails")))
    if kind == "Bounce":
        return _came_back(told)
    if kind == "Complaint":
        complaint = _part(told, "complaint")
        people = _list(complaint, "complainedRecipients")
        return Complained(_addresses([_part_of(one).get("emailAddress") for one in people]))
    return Other(kind)


def _came_back(told: dict[str, Any]) -> CameBack:
    bounce = _part(told, "bounce")
    people = [_part_of(one) for one in _list(bounce, "bouncedRecipients")]
    emails = _addresses([one.get("emailAddress") for one in people])
    kinds = [str(bounce.get(name, "")) for name in ("bounceType", "bounceSubType")]
    server_id = _part(told, "mail").get("messageId")
    return CameBack(
        [
            (email, str(one.get("diagnosticCode") or one.get("status") or " ".join(kinds)))
            for email, one in zip(emails, people, strict=True)
        ],
        is_for_good=kinds[0] == "Permanent",
        server_id=server_id if isinstance(server_id, str) else None,
    )


# -- pieces --------------------------------------------------------------------------------------


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable("it is not JSON") from error
    return _part_of(found)


def _part_of(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Unreadable("it is JSON, but no object where one should be")
    return found


def _part(told: dict[str, Any], name: str) -> dict[str, Any]:
    return _part_of(told.get(name))


def _list(told: dict[str, Any], name: str) -> list[Any]:
    found = told.get(name)
    if not isinstance(found, list) or not 0 < len(found) <= MOST_EMAILS:
        raise Unreadable(f"{name} is no list of 1 to {MOST_EMAILS}")
    return found


def _id(found: Any) -> uuid.UUID:
    try:
        return uuid.UUID(found)
    except (ValueError, TypeError, AttributeError) as error:
        raise Unreadable("transfer_id is no UUID") from error


def _addresses(found: list[Any]) -> list[str]:
    """The addresses, normalised; raises Unreadable if one of them is not an address."""
    bare = [_NAMED.sub(r"\1", str(one)) for one in found]
    try:
        return [addresses.normalised(one) for one in bare]
    except addresses.NotAnAddress as error:
        raise Unreadable("an address is none") from error
