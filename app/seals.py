"""Signed tokens for links and browsers, which cannot be forged.

Nothing of them is stored: they are made again for each mail, and a mail that waits in the outbox
holds none. Each purpose has its own key, so a token for one is not valid for another.
"""

import hashlib

from itsdangerous import BadSignature, Signer

from app.config import settings


class Seal:
    """Signs and verifies tokens for one purpose; those made under former keys stay valid."""

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose

    def of(self, content: str) -> str:
        """The content with its signature: URL-safe if the content is."""
        return self._signer().sign(content).decode()

    def read(self, sealed: str) -> str | None:
        """The content, or None if we have not signed it for this purpose."""
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
