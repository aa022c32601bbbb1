"""The means of talking to storage: boto3 clients, our own connections, and signing credentials."""

import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from app import clock
from app.config import Settings
from app.errors import Unavailable
from app.gateways.http_pool import Lines
from app.gateways.multipart_opener import Opener
from app.gateways.presign import Credentials, Presigner

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.session import Session as BotocoreSession

# (read timeout in seconds, number of attempts)
QUICK, STEADY, PATIENT = (3, 2), (15, 5), (60, 5)
# Used instead of PATIENT in a request. A router may cut the client off after 30 seconds, but the
# work goes on, and a repeated request finds it done: so slow storage gets a minute. One failure in
# passing is tried again; storage that hangs holds a thread for two minutes at most.
LONG = (60, 2)
_LATE = ("core", "session", "quick", "steady", "patient", "long", "bulk", "lines", "opener")
_making = threading.Lock()
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"
# XML parsers normalise these characters unless they are written as character references.
_UNSEEN = {"\r": "&#xD;", "\n": "&#xA;", "\t": "&#x9;"}


class Clients:
    """Clients for one bucket, each made when it is first needed. Thread-safe.

    Loading boto3 and making its clients takes half as long as starting the rest of the
    application, and most commands, and the clock, never use storage.
    """

    def __init__(self, settings: Settings) -> None:
        """Opens no connection."""
        self._settings = settings
        self.endpoint: str = settings.s3_endpoint_url or self.quick.meta.endpoint_url
        # Signs for our own reads and writes, at the endpoint that we reach storage by. An archive
        # makes thousands of small reads, and boto3 hashes and copies what it sends.
        self.ours = self.presigner(self.endpoint)

    def get_ready(self) -> None:
        """Make everything that is otherwise made on first use; opens no connection.

        For long-running processes: the first request should not wait for it, and jobs run in
        forked children, each of which would have to make it again.
        """
        for late in _LATE:
            getattr(self, late)

    def presigner(self, endpoint: str) -> Presigner:
        """Make a Presigner for the bucket at this endpoint."""
        return Presigner(
            endpoint,
            self._settings.s3_bucket,
            self._settings.s3_region,
            in_path=self._is_in_path,
            credentials=self._credentials(),
            now=lambda: clock.now(),  # noqa: PLW0108  looked up late, so that tests can patch it
        )

    @cached_property
    def core(self) -> "BotocoreSession":
        """The botocore session below boto3's."""
        from botocore.session import Session as BotocoreSession

        return BotocoreSession()

    @cached_property
    def session(self) -> "Session":
        """The boto3 session, which finds credentials and makes clients."""
        from boto3.session import Session

        return Session(botocore_session=self.core)

    @cached_property
    def quick(self) -> Any:
        """For requests, in which a person waits: two short attempts."""
        return self._make(*QUICK)

    @cached_property
    def steady(self) -> Any:
        """For jobs: more and longer attempts."""
        return self._make(*STEADY)

    @cached_property
    def patient(self) -> Any:
        """For jobs, where storage has work to do before it answers: a Complete, or a copy.

        Any other call that takes this long is waiting for a dead connection.
        """
        return self._make(*PATIENT)

    @cached_property
    def long(self) -> Any:
        """For requests, where storage has work to do before it answers: few long attempts."""
        return self._make(*LONG)

    @cached_property
    def bulk(self) -> Any:
        """For DeleteObjects with thousands of keys, without botocore's parameter validation.

        Nearly all CPU time of such a request went into botocore validating each key and building
        an XML tree. Event handlers write the document instead; botocore does the rest. The keys
        are our own or come from a listing, so they are never empty.
        """
        client = self._make(*STEADY, validates=False)
        events = client.meta.events
        events.register("before-parameter-build.s3.DeleteObjects", _write_keys)
        events.register("before-call.s3.DeleteObjects", _send_keys)
        return client

    @cached_property
    def lines(self) -> Lines:
        """Kept-alive connections, for requests that we sign ourselves."""
        return Lines(self.ours.origin, self.core.get_config_variable("ca_bundle"))

    @cached_property
    def opener(self) -> Opener:
        """Begins multipart uploads."""
        return Opener(self.ours, self.lines)

    def _make(self, read_timeout: int, attempts: int, *, validates: bool = True) -> Any:
        from botocore.config import Config

        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if self._is_in_path else "virtual"},
            connect_timeout=2,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            # The number of concurrent calls in a sweep (parallel.IN_FLIGHT for each batch of
            # REMOVE_AHEAD).
            max_pool_connections=48,
            parameter_validation=validates,
            # Stores that do not support boto3's new default checksums reject them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A session is not thread-safe while it makes a client.
        with _making:
            client = self.session.client(
                "s3",
                endpoint_url=self._settings.s3_endpoint_url or None,
                region_name=self._settings.s3_region,
                aws_access_key_id=self._settings.s3_access_key_id or None,
                aws_secret_access_key=self._settings.s3_secret_access_key or None,
                config=config,
            )
        client.meta.events.register("before-call.s3", _add_md5)
        return client

    @property
    def _is_in_path(self) -> bool:
        if self._settings.s3_addressing == "auto":
            return bool(self._settings.s3_endpoint_url)
        return self._settings.s3_addressing == "path"

    def _credentials(self) -> Callable[[], Credentials]:
        settings = self._settings
        if settings.s3_access_key_id:
            fixed = Credentials(settings.s3_access_key_id, settings.s3_secret_access_key)
            return lambda: fixed
        return self._role_credentials

    def _role_credentials(self) -> Credentials:
        """Return a role's temporary keys, which boto3 renews; costs nothing while they are fresh.

        Raises Unavailable if there are none.
        """
        found = self.session.get_credentials()
        if found is None:
            raise Unavailable("No credentials for storage could be found.")
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _write_keys(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    # Escape all keys in one call. No key contains the separator NUL, which XML does not allow.
    keys = escape("\0".join(one["Key"] for one in params["Delete"]["Objects"]), _UNSEEN)
    objects = keys.replace("\0", "</Key></Object><Object><Key>")
    context["document"] = (
        f'<Delete xmlns="{_S3}"><Object><Key>{objects}</Key></Object><Quiet>true</Quiet></Delete>'
    ).encode()
    params["Delete"] = {"Objects": []}


def _send_keys(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["body"] = context.pop("document")


def _add_md5(model: Any, params: dict[str, Any], **_: Any) -> None:
    """Add Content-MD5 where S3 wants a checksum: boto3 sends a newer one, unknown to older stores.

    Botocore calls the more specific handlers first, so the body is there.
    """
    if model.http_checksum.get("requestChecksumRequired"):
        digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = b64encode(digest).decode()
