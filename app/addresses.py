"""E-mail addresses: how rows, settings and mail servers spell them.

In this module an address is always a mailbox; request_guards.py has the network addresses.
"""

import re
import unicodedata

from email_validator import EmailNotValidError, validate_email

LONGEST = 254
# Refused whatever the validator allows: spaces, line ends, other controls and angle brackets; and
# what could lead mail for one domain to another. Some servers pass user%other@here and
# other!user@here on to the other host, and "=?" begins an encoded word, which mail libraries decode
# in the header To.
_NEVER = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029<>%!]|=\?")


class NotAnAddress(ValueError):
    """Not an e-mail address that mail can be sent to."""


def normalised(given: str) -> str:
    """The address in its normal spelling, in lower case; raises NotAnAddress. Asks no DNS.

    Repeating it changes nothing.
    """
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
    # Lower case may have precomposed letters that upper case has not.
    return unicodedata.normalize("NFC", found.normalized.lower())


def on_the_wire(address: str) -> str:
    """The address as mail servers take it: a non-ASCII domain in its xn-- form, if possible.

    Where the local part is not ASCII either, the domain stays as it is.
    """
    if address.isascii():
        return address
    found = validate_email(address, check_deliverability=False)
    return found.ascii_email or found.normalized
