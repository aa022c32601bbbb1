"""Words with our signature: what a link or a browser may carry and nobody can make up.

Nothing of them is stored, so they can be made again for each mail, and a mail that waits in the
outbox holds none. Each purpose has its own key, so that a word of one is no word of another.
"""

import hashlib

from itsdangerous import BadSignature, Signer

from app.config import settings


class Seal:
    """Signs for one purpose; good under former keys too."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose

    def of(self, content: str) -> str:
        """The content with its signature: safe in an address if the content is."""
        return self._signer().sign(content).decode()

    def read(self, sealed: str) -> str | None:
        """The content, or None when it was not we who signed it for this purpose."""
        try:
            return self._signer().unsign(sealed).decode()
        except (BadSignature, UnicodeError):
            return None

    def _signer(self) -> Signer:
        return Signer(
            [*settings.secret_key_fallbacks, settings.secret_key],
            salt=f"seal:{self._purpose}",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )
