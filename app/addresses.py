"""E-mail addresses: what one is, and what is kept of one that must not be known.

Networks are told by hashes elsewhere in this house; here an address is always somebody's mailbox.
"""

import hmac
import re

from email_validator import EmailNotValidError, validate_email

from app.config import settings

LONGEST = 254
# Line ends and other controls, whatever a validator may think of them some day.
_NEVER = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029<>]")


class NotAnAddress(ValueError):
    """Not an e-mail address that mail can be sent to."""


def normalised(given: str) -> str:
    """The address in one spelling, in lower case; raises NotAnAddress. Asks no DNS."""
    if len(given) > LONGEST or _NEVER.search(given.strip()):
        raise NotAnAddress(given)
    try:
        found = validate_email(
            given.strip(),
            check_deliverability=False,
            allow_quoted_local=False,
            allow_domain_literal=False,
            strict=True,
        )
    except EmailNotValidError as error:
        raise NotAnAddress(given) from error
    return found.normalized.lower()


def on_the_wire(address: str) -> str:
    """As mail servers take it: a domain beyond ASCII has another spelling for them."""
    if address.isascii():
        return address
    found = validate_email(address, check_deliverability=False)
    return found.ascii_email or found.normalized


def hashes(address: str) -> list[bytes]:
    """Keyed hashes of it, the first under our key, others under former ones.

    Nothing but the address itself could be hashed anew under another key, and that is not kept: so
    a former key has to stay for as long as its hashes are to be known.
    """
    keys = (settings.secret_key, *settings.secret_key_fallbacks, *settings.opt_out_keys)
    return [hmac.digest(key.encode(), f"email:{address}".encode(), "sha256") for key in keys]
