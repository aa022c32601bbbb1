"""The storage URLs that we give out, signed here without a request."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.config import Settings
from app.gateways.clients import Clients
from app.gateways.presign import CRC32_HEADER, PostForm
from app.gateways.s3_answers import OBJECT_TYPE, TOKEN_HEADER, encoded

if TYPE_CHECKING:
    from app.gateways.cloudfront import CloudFront

# What may be shown or played in a page: no type that a browser could run as a document.
INLINE_TYPES = frozenset(
    {
        "image/webp", "image/jpeg",
        "video/mp4", "video/webm",
        "audio/mpeg", "audio/mp4", "audio/ogg", "audio/wav", "audio/flac", "audio/aac",
    }
)  # fmt: skip


class Urls:
    """URLs in our bucket, by its public endpoint."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._presigner = clients.presigner(settings.s3_public_endpoint_url or clients.endpoint)
        self._delivery = self._make_delivery(settings)

    @property
    def origin(self) -> str:
        """The origin that browsers upload to, for the Content-Security-Policy."""
        return self._presigner.origin

    @property
    def download_origin(self) -> str:
        """The origin that browsers download from: the same, or the CloudFront distribution."""
        return self._delivery.origin if self._delivery else self.origin

    def parts(
        self,
        key: str,
        s3_upload_id: str,
        parts: Sequence[tuple[int, int]],
        expires_in: int,
        crc32s: Sequence[bytes] | None = None,
    ) -> list[tuple[str, dict[str, str]]]:
        """For each (number, size) return the URL to PUT that part to, and the headers to send.

        Each URL accepts only that size and, where `crc32s` are given, only bytes with that CRC32.
        """
        if crc32s is None:
            urls = self._presigner.part_urls(key, s3_upload_id, parts, expires_in=expires_in)
            return [(url, {}) for url in urls]
        checksums = [encoded(crc32) for crc32 in crc32s]
        urls = self._presigner.part_urls(
            key, s3_upload_id, parts, expires_in=expires_in, checksums=checksums
        )
        return [(url, {CRC32_HEADER: one}) for url, one in zip(urls, checksums, strict=True)]

    def plain_parts(
        self, key: str, s3_upload_id: str, numbers: Sequence[int], expires_in: int
    ) -> list[str]:
        """Return URLs to PUT these parts to, which leave headers and length to the sender."""
        return self._presigner.plain_part_urls(key, s3_upload_id, numbers, expires_in=expires_in)

    def put(
        self, key: str, token: str, size: int, expires_in: int, crc32: bytes | None = None
    ) -> tuple[str, dict[str, str]]:
        """Return a URL to PUT a whole object in one request, and the headers that must be sent.

        If-None-Match makes storage refuse it once there is an object, so that the URL can never
        overwrite what has been checked (a plain presigned PUT could, until it expires).
        """
        headers = {
            "Content-Type": OBJECT_TYPE,
            "If-None-Match": "*",
            TOKEN_HEADER: token,
        }
        if crc32 is not None:
            headers[CRC32_HEADER] = encoded(crc32)
        signed = headers | {"Content-Length": str(size)}
        return self._presigner.url("PUT", key, headers=signed, expires_in=expires_in), headers

    def staging(self, key: str, content_type: str, size: int | None, expires_in: int) -> str:
        """Return a URL to PUT a whole object to, of this type and size where they are given.

        It can be used again until it expires, so the object there is never used as a file itself.
        """
        headers = {"Content-Type": content_type} if content_type else {}
        if size is not None:
            headers["Content-Length"] = str(size)
        return self._presigner.url("PUT", key, headers=headers, expires_in=expires_in)

    def post_form(self, key: str, content_type: str, max_size: int, lifetime: int) -> PostForm:
        """Return a form with which anyone who has it can POST one object to this key.

        Storage itself enforces this type, `max_size` bytes and `lifetime` seconds.
        """
        return self._presigner.presigned_post(key, content_type, max_size, lifetime)

    def plain(self, key: str) -> str:
        """Return the unsigned URL of an object; storage refuses requests for it."""
        return self._presigner.plain_url(key)

    def get(self, key: str, disposition: str, expires_in: int) -> str:
        """Return a URL to GET an object from, always as an attachment of OBJECT_TYPE."""
        query = {
            "response-content-disposition": disposition,
            "response-content-type": OBJECT_TYPE,
            "response-cache-control": "private, no-store",
        }
        if self._delivery is not None:
            return self._delivery.url(key, query, expires_in)
        return self._presigner.url("GET", key, query=query, expires_in=expires_in)

    def inline(self, key: str, content_type: str, expires_in: int) -> str:
        """Return a URL for an <img>, <video> or <audio>; raises ValueError unless in INLINE_TYPES.

        These elements ignore Content-Disposition; opening the URL itself is still a download.
        """
        if content_type not in INLINE_TYPES:
            raise ValueError(f"{content_type} must not be shown in a page")
        query = {
            "response-content-disposition": "attachment",
            "response-content-type": content_type,
            "response-cache-control": f"private, max-age={expires_in}",
        }
        return self._presigner.url("GET", key, query=query, expires_in=expires_in)

    @staticmethod
    def _make_delivery(settings: Settings) -> "CloudFront | None":
        if not settings.cloudfront_url:
            return None
        # Imported here so that only installations that use it load its cryptography.
        from app.gateways.cloudfront import CloudFront

        return CloudFront(settings)
