"""Signed CloudFront addresses, made without the network; where CLOUDFRONT_* say so, for downloads.

The distribution must lead to the bucket and pass the `response-*` words of the query on to it
(docs/operate.md). The whole address is signed, those words too, with the moment of its end.
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
    """One distribution before our bucket, and the key that opens it."""

    def __init__(self, settings: Settings) -> None:
        key = load_pem_private_key(settings.cloudfront_private_key.encode(), password=None)
        assert isinstance(key, RSAPrivateKey)  # app/config.py takes no other
        self.origin = settings.cloudfront_url
        self._signer = CloudFrontSigner(
            settings.cloudfront_key_pair_id,
            # CloudFront knows no other hash than SHA-1 here.
            lambda message: key.sign(message, PKCS1v15(), SHA1()),  # noqa: S303
        )

    def url(self, key: str, query: Mapping[str, str], expires_in: int) -> str:
        """An address to GET exactly this key with exactly this query, good for `expires_in` s."""
        words = urlencode(query, quote_via=quote, safe="-_.~")
        url: str = self._signer.generate_presigned_url(
            f"{self.origin}/{quote(key, safe='/-_.~')}?{words}",
            date_less_than=clock.now() + timedelta(seconds=expires_in),
        )
        return url
