"""By what storage is asked: boto3's clients, connections of our own, and the keys that sign."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from app import clock
from app.config import Settings
from app.errors import Unavailable
from app.gateways.lines import Lines
from app.gateways.opening import Opener
from app.gateways.presign import Credentials, Presigner

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.session import Session as BotocoreSession

# How many seconds an answer is waited for, and how often storage is asked.
QUICK, STEADY, PATIENT = (3, 2), (15, 5), (60, 5)
# PATIENT's place in a request, which has 30 seconds in all and asks QUICK before and after.
ONE_TRY = (15, 1)
_LATE = ("core", "session", "quick", "steady", "patient", "one_try", "bulk", "lines", "opener")
_making = threading.Lock()
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"
# Whoever reads XML takes these for something else, unless they are written so.
_UNSEEN = {"\r": "&#xD;", "\n": "&#xA;", "\t": "&#x9;"}


class Clients:
    """Each is made when it is first needed: any number of threads may ask.

    boto3 and its clients take half as long to load and make as the rest of us together, and most
    commands, and the clock, ask storage nothing.
    """

    def __init__(self, settings: Settings) -> None:
        """Opens no connection."""
        self._settings = settings
        self.endpoint: str = settings.s3_endpoint_url or self.quick.meta.endpoint_url
        # Bytes of our own go to storage as we reach it, by signed addresses: thousands of small
        # reads are an archive's daily bread, and boto3 hashes and copies what it sends.
        self.ours = self.presigner(self.endpoint)

    def get_ready(self) -> None:
        """Make now what would else be made when it is first needed; opens no connection.

        For processes that serve: their first request shall not wait for it, and jobs are done in
        children, each of which would have to make it anew.
        """
        for late in _LATE:
            getattr(self, late)

    def presigner(self, endpoint: str) -> Presigner:
        """Signs for the bucket as it is reached at this address."""
        return Presigner(
            endpoint,
            self._settings.s3_bucket,
            self._settings.s3_region,
            in_path=self._is_in_path,
            credentials=self._credentials(),
            now=lambda: clock.now(),  # noqa: PLW0108  looked up late, so that tests can set it
        )

    @cached_property
    def core(self) -> "BotocoreSession":
        """What boto3 itself stands on."""
        from botocore.session import Session as BotocoreSession

        return BotocoreSession()

    @cached_property
    def session(self) -> "Session":
        """Finds keys, and makes clients."""
        from boto3.session import Session

        return Session(botocore_session=self.core)

    @cached_property
    def quick(self) -> Any:
        """For requests, in which somebody waits: two short tries."""
        return self._make(*QUICK)

    @cached_property
    def steady(self) -> Any:
        """For jobs: more and longer tries."""
        return self._make(*STEADY)

    @cached_property
    def patient(self) -> Any:
        """For jobs, where storage has work to do before it answers: a Complete, or a copy.

        Whoever waits that long for anything else waits for a dead connection.
        """
        return self._make(*PATIENT)

    @cached_property
    def one_try(self) -> Any:
        """For requests, where storage has work to do before it answers: one long try."""
        return self._make(*ONE_TRY)

    @cached_property
    def bulk(self) -> Any:
        """For thousands of keys: they are ours, or from storage's own list, and never empty.

        Of the CPU of a request to delete them nearly all was botocore's, which looks at each and
        makes a tree of them all. Its own events let us write the document; the rest is its work.
        """
        client = self._make(*STEADY, validates=False)
        events = client.meta.events
        events.register("before-parameter-build.s3.DeleteObjects", _write_keys)
        events.register("before-call.s3.DeleteObjects", _send_keys)
        return client

    @cached_property
    def lines(self) -> Lines:
        """Kept connections, for what we sign ourselves."""
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
            # As many as a sweep asks at once (parallel.IN_FLIGHT for each batch of REMOVE_AHEAD).
            max_pool_connections=48,
            parameter_validation=validates,
            # Stores that do not know boto3's new default checksums refuse them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        # A session makes one client at a time.
        with _making:
            return self.session.client(
                "s3",
                endpoint_url=self._settings.s3_endpoint_url or None,
                region_name=self._settings.s3_region,
                aws_access_key_id=self._settings.s3_access_key_id or None,
                aws_secret_access_key=self._settings.s3_secret_access_key or None,
                config=config,
            )

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
        """boto3 renews a role's keys; asking each time costs nothing while they are fresh."""
        found = self.session.get_credentials()
        if found is None:
            raise Unavailable("No credentials for storage could be found.")
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _write_keys(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    # All are escaped at once; no key holds the character between them, which XML does not allow.
    keys = escape("\0".join(one["Key"] for one in params["Delete"]["Objects"]), _UNSEEN)
    objects = keys.replace("\0", "</Key></Object><Object><Key>")
    context["document"] = (
        f'<Delete xmlns="{_S3}"><Object><Key>{objects}</Key></Object><Quiet>true</Quiet></Delete>'
    ).encode()
    params["Delete"] = {"Objects": []}


def _send_keys(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    params["body"] = context.pop("document")
