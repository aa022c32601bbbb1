"""Who may manage a transfer: holders of its owner token, or of a manage link that was mailed.

The URL of its manage page ends with its manage word: `<id>.<owner token>`, as the sender's browser
makes it, or the signed token of a mailed link. The database stores neither of them.
"""

import uuid

from app.errors import NotFound, Unauthorized
from app.models import Transfer
from app.services import mail_links, transfers

_ID_LENGTH = 36


def opened(word: str) -> Transfer:
    """The transfer that a manage word opens; raises NotFound, and Gone once it is deleted.

    A wrong secret, a forged signature and an unknown transfer look the same.
    """
    transfer_id, _, secret = word.partition(".")
    if len(transfer_id) == _ID_LENGTH:
        try:
            return transfers.owned(uuid.UUID(transfer_id), secret)
        except (ValueError, NotFound, Unauthorized):
            pass  # then it is a mailed token, or nothing valid
    try:
        return mail_links.managed(word)
    except NotFound:
        # With the default text, as for a URL that no route knows.
        raise NotFound from None


def owned(transfer_id: uuid.UUID, secret: str | None) -> Transfer:
    """The transfer, if the secret is its owner token or its manage word.

    Raises Unauthorized without a secret, Gone once it is deleted, and otherwise NotFound: a wrong
    secret and an unknown transfer look the same.
    """
    try:
        return transfers.owned(transfer_id, secret)
    except NotFound as unknown:
        try:
            transfer = opened(secret or "")
        except NotFound:
            raise unknown from None
        if transfer.id != transfer_id:
            raise unknown from None
        return transfer
