"""The addresses at storage that we give out, each of them signed here: nobody is asked for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.config import Settings
from app.gateways.clients import Clients
from app.gateways.presign import CRC32_HEADER, PostForm
from app.gateways.stored import OBJECT_TYPE, TOKEN_HEADER, encoded

if TYPE_CHECKING:
    from app.gateways.cloudfront import CloudFront

# What may be shown or played in a page: nothing that a browser could take for a page itself.
INLINE_TYPES = frozenset(
    {
        "image/webp", "image/jpeg",
        "video/mp4", "video/webm",
        "audio/mpeg", "audio/mp4", "audio/ogg", "audio/wav", "audio/flac", "audio/aac",
    }
)  # fmt: skip


class Urls:
    """Addresses in the one bucket, as browsers and programs reach it."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._presigner = clients.presigner(settings.s3_public_endpoint_url or clients.endpoint)
        self._delivery = self._make_delivery(settings)

    @property
    def origin(self) -> str:
        """Where browsers send bytes: for the Content-Security-Policy."""
        return self._presigner.origin

    @property
    def download_origin(self) -> str:
        """Where browsers fetch bytes: the same, or a CloudFront distribution before it."""
        return self._delivery.origin if self._delivery else self.origin

    def parts(
        self,
        key: str,
        s3_upload_id: str,
        parts: Sequence[tuple[int, int]],
        expires_in: int,
        crc32s: Sequence[bytes] | None = None,
    ) -> list[tuple[str, dict[str, str]]]:
        """For each (number, size) the address to PUT that part at, and the headers to go with it.

        Each is good for exactly that size and, where `crc32s` are given, for those bytes.
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
        """Addresses to PUT these parts at, with whatever headers and length their sender likes."""
        return self._presigner.plain_part_urls(key, s3_upload_id, numbers, expires_in=expires_in)

    def put(
        self, key: str, token: str, size: int, expires_in: int, crc32: bytes | None = None
    ) -> tuple[str, dict[str, str]]:
        """An address to PUT a whole object at once, and the headers that must go with it.

        If-None-Match makes storage refuse it once there is an object, so that the address can
        never overwrite what has been checked (a plain presigned PUT could, until it expires).
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
        """An address to PUT a whole object at, of this type and size where they are told.

        It may be used again until it dies: nothing that lies there is anybody's file.
        """
        headers = {"Content-Type": content_type} if content_type else {}
        if size is not None:
            headers["Content-Length"] = str(size)
        return self._presigner.url("PUT", key, headers=headers, expires_in=expires_in)

    def post_form(self, key: str, content_type: str, max_size: int, lifetime: int) -> PostForm:
        """A form by which anybody who has it may POST one object to this key.

        Storage itself holds it to this type, `max_size` bytes and `lifetime` seconds.
        """
        return self._presigner.presigned_post(key, content_type, max_size, lifetime)

    def plain(self, key: str) -> str:
        """Where an object lies, as S3 names it; whoever has no signature is refused there."""
        return self._presigner.plain_url(key)

    def get(self, key: str, disposition: str, expires_in: int) -> str:
        """An address to GET an object from, always as a neutral attachment."""
        query = {
            "response-content-disposition": disposition,
            "response-content-type": OBJECT_TYPE,
            "response-cache-control": "private, no-store",
        }
        if self._delivery is not None:
            return self._delivery.url(key, query, expires_in)
        return self._presigner.url("GET", key, query=query, expires_in=expires_in)

    def inline(self, key: str, content_type: str, expires_in: int) -> str:
        """An address for an <img>, <video> or <audio> of a page, of one of INLINE_TYPES only.

        These ignore the disposition; whoever opens the address itself still gets a download.
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
        # Here, so that only those who use it have its cryptography in memory.
        from app.gateways.cloudfront import CloudFront

        return CloudFront(settings)
