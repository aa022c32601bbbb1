"""Signed CloudFront URLs for downloads, made without the network. Used if CLOUDFRONT_* are set.

The distribution must have the bucket as its origin and forward the `response-*` query parameters
to it (docs/operate.md). The signature covers the whole URL with its query, and the expiry time.
"""

from collections.abc import Mapping
from datetime import timedelta
from urllib.parse import quote, urlencode

from botocore.signers import CloudFrontSigner
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app import clock
from app.config import Settings


class CloudFront:
    """A CloudFront distribution in front of our bucket, and its signing key."""

    def __init__(self, settings: Settings) -> None:
        key = load_pem_private_key(settings.cloudfront_private_key.encode(), password=None)
        assert isinstance(key, RSAPrivateKey)  # app/config.py accepts no other
        self.origin = settings.cloudfront_url
        self._signer = CloudFrontSigner(
            settings.cloudfront_key_pair_id,
            # CloudFront supports only SHA-1 here.
            lambda message: key.sign(message, PKCS1v15(), SHA1()),  # noqa: S303
        )

    def url(self, key: str, query: Mapping[str, str], expires_in: int) -> str:
        """Return a URL to GET exactly this key with this query, valid for `expires_in` seconds."""
        words = urlencode(query, quote_via=quote, safe="-_.~")
        url: str = self._signer.generate_presigned_url(
            f"{self.origin}/{quote(key, safe='/-_.~')}?{words}",
            date_less_than=clock.now() + timedelta(seconds=expires_in),
        )
        return url
