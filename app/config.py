"""Every setting of Beeline: its environment name, type, default and meaning.

`load()` reads the environment once and raises ConfigError on bad or missing values, naming all of
them. `settings` is the bound result, the same object for every layer. A setting that is not
declared here does not exist; `docs/operate.md` lists each one (checked by a test).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from email.utils import formataddr, parseaddr
from typing import Any, cast
from urllib.parse import urlsplit

import click

from app import setting_kinds as kinds

KIB, MIB, GIB = 1024, 1024**2, 1024**3
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
S3_MAX_PARTS = 10_000
S3_MIN_PART_SIZE = 5 * MIB
S3_MAX_PART_SIZE = 5 * GIB
S3_MAX_OBJECT_SIZE = S3_MAX_PARTS * S3_MAX_PART_SIZE
# How many bytes of a text file its preview holds.
PREVIEW_TEXT_SIZE = 8 * KIB


class ConfigError(click.ClickException):
    """The environment has bad or missing settings; the message lists all of them.

    A command prints a ClickException's message, without a traceback.
    """


def setting(parse: Callable[[str], Any], meaning: str, default: Any = ...) -> Any:
    """Declare a setting: its parser, its meaning and its default; without one it is required."""
    return field(metadata={"parse": parse, "meaning": meaning, "default": default})


@dataclass(frozen=True, repr=False)
class Settings:
    """All settings. The environment variable of each is its name in capitals."""

    secret_key: str = setting(kinds.secret, "signs cookies; at least 32 random characters")
    base_url: str = setting(kinds.base_url, "the address people see, without a path")
    secret_key_fallbacks: tuple[str, ...] = setting(
        kinds.secrets,
        "former secret keys, separated by spaces, still good for reading cookies and mailed links",
        (),
    )
    opt_out_keys: tuple[str, ...] = setting(
        kinds.secrets,
        "former secret keys, separated by spaces, good only for knowing who wants no mail",
        (),
    )
    allowed_hosts: tuple[str, ...] = setting(
        kinds.hosts,
        "further host names to answer for, separated by spaces",
        (),
    )
    database_url: str = setting(kinds.database, "PostgreSQL, postgres:// is fine")
    redis_url: str = setting(kinds.redis, "Redis or Valkey, for the job queue")
    redis_tls_verify: bool = setting(
        kinds.switch, "a rediss:// server must prove who it is; false takes any certificate", True
    )
    database_pool_size: int = setting(
        kinds.whole(1, 100), "database connections each process keeps at most", 8
    )
    web_concurrency: int = setting(
        kinds.whole(1, 100), "web processes that gunicorn starts; the Procfile reads it too", 2
    )
    trusted_proxies: int = setting(
        kinds.whole(0, 10),
        "how many proxies in front add to X-Forwarded-For; the nearest tells X-Forwarded-Proto",
        0,
    )
    log_level: str = setting(
        kinds.choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "least severe line that is logged",
        "INFO",
    )

    s3_bucket: str = setting(kinds.text, "the bucket that holds the files")
    s3_endpoint_url: str = setting(
        kinds.optional(kinds.origin), "the store's address; empty means AWS S3", ""
    )
    s3_public_endpoint_url: str = setting(
        kinds.optional(kinds.origin),
        "the store's address as browsers reach it; empty means the same",
        "",
    )
    s3_region: str = setting(
        lambda value: value.strip() or "us-east-1", "the region that signatures name", "us-east-1"
    )
    s3_access_key_id: str = setting(
        kinds.text, "access key; empty means boto3's own search (role, AWS_* variables)", ""
    )
    s3_secret_access_key: str = setting(kinds.text, "secret of the access key", "")
    s3_addressing: str = setting(
        kinds.choice("auto", "path", "virtual"),
        "bucket in the path or in the host name; auto: host on AWS, path elsewhere",
        "auto",
    )
    s3_prefix: str = setting(
        kinds.prefix,
        "every object of ours lies below this; nothing else is ever touched",
        "beeline/",
    )
    s3_conditional_writes: bool = setting(
        kinds.switch,
        "the store honours If-None-Match on PUT; false sends small files as multipart",
        True,
    )
    s3_checksums: str = setting(
        kinds.choice("auto", "on", "off"),
        "the store verifies CRC32 of parts and of whole objects; auto: it is asked",
        "auto",
    )
    s3_equal_parts: str = setting(
        kinds.choice("auto", "on", "off"),
        "the store wants all parts but the last to be of one size; auto: Cloudflare R2 does",
        "auto",
    )

    cloudfront_url: str = setting(
        kinds.optional(kinds.cloudfront_url),
        "a CloudFront distribution before the bucket, for downloads",
        "",
    )
    cloudfront_key_pair_id: str = setting(kinds.key_pair_id, "the id of its public key", "")
    cloudfront_private_key: str = setting(
        kinds.optional(kinds.private_key),
        "the private key to it, as PEM; line ends may be written as \\n",
        "",
    )

    max_file_size: int = setting(
        kinds.whole(1, S3_MAX_OBJECT_SIZE), "largest file, in bytes", S3_MAX_OBJECT_SIZE
    )
    max_transfer_size: int | None = setting(
        kinds.optional_whole(1, 2**62), "largest transfer, in bytes; empty means no limit", None
    )
    max_stored_size: int | None = setting(
        kinds.optional_whole(1, 2**62),
        "most to keep in the bucket, in bytes; empty means no limit",
        None,
    )
    max_files: int = setting(kinds.whole(1, 10_000), "most files in one transfer", 5_000)
    max_small_file_size: int = setting(
        kinds.whole(1, GIB),
        "largest file that a form of /files brings, in bytes",
        100 * MIB,
    )
    small_file_types: tuple[str, ...] = setting(
        kinds.types,
        "types that a form of /files may bring, separated by spaces; image/* means all images",
        kinds.types(
            "image/* audio/* video/* font/* text/plain text/csv text/markdown application/pdf "
            "application/json application/zip application/msword application/vnd.* "
            "application/octet-stream"
        ),
    )
    max_open_transfers_per_address: int = setting(
        kinds.whole(1, 100_000), "most unfinished transfers of one network address", 50
    )
    max_open_bytes_per_address: int = setting(
        kinds.whole(1, 2**62),
        "most bytes that several unfinished transfers of one network address may come to",
        1024 * GIB,
    )
    max_creates_per_hour: int = setting(
        kinds.whole(1, 1_000_000), "most transfers one network address may create in an hour", 400
    )
    max_unknown_per_minute: int = setting(
        kinds.whole(1, 1_000_000),
        "most unknown links and wrong API keys one network address may try in a minute",
        100,
    )
    max_messages_per_hour: int = setting(
        kinds.whole(1, 1_000_000),
        "most reports and requests one network address may send in an hour",
        20,
    )
    max_messages_per_link_and_hour: int = setting(
        kinds.whole(1, 1_000_000), "most of them about one link in an hour, from anywhere", 60
    )
    site_name: str = setting(
        kinds.name, "what pages and mails call this site, and their From header", "Beeline"
    )
    footer_links: tuple[tuple[str, str], ...] = setting(
        kinds.links,
        "below every page and mail: words and an address, separated from the next by |",
        (),
    )
    abuse_contact: str = setting(
        kinds.contact,
        "a mail address or a page, shown to who reports a link; reports are mailed there",
        "",
    )
    max_calls_per_key_and_day: int = setting(
        kinds.whole(1, 1_000_000_000), "most requests of one API key in a day", 500_000
    )
    max_asset_form_size: int = setting(
        kinds.whole(0, 16 * MIB), "largest file that POST /api/assets/upload takes; 0: none", 0
    )
    jwt_secret: str = setting(
        kinds.optional(kinds.secret),
        "signs the tokens of POST /v2/authorize; empty: derived from SECRET_KEY",
        "",
    )
    jwt_secret_fallbacks: tuple[str, ...] = setting(
        kinds.secrets, "former JWT secrets, separated by spaces, still good for reading tokens", ()
    )
    jwt_ttl_in_minutes: int = setting(
        kinds.whole(1, 24 * 60), "how long a token of POST /v2/authorize is good", 15
    )
    unlock_ttl_in_hours: int = setting(
        kinds.whole(1, 24 * 7),
        "how long a password that was right opens a transfer in one browser",
        12,
    )
    unlock_tries_at_once: int = setting(
        kinds.whole(1, 100),
        "passwords one network address may try on a transfer before it must wait",
        5,
    )
    max_unlock_tries_per_hour: int = setting(
        kinds.whole(1, 1_000_000),
        "most wrong passwords for one transfer in an hour, from anywhere",
        100,
    )
    default_expires_in_days: int = setting(
        kinds.whole(1, 3650), "how long a link lives when the sender says nothing", 7
    )
    max_expires_in_days: int = setting(kinds.whole(1, 3650), "how long a link may live at most", 90)
    grace_in_days: int = setting(
        kinds.whole(0, 365), "how long an expired transfer's bytes are kept for reviving", 3
    )
    tombstones_in_days: int = setting(
        kinds.whole(1, 3650), "how long the link of a deleted transfer still says so", 90
    )
    report_retention_in_days: int = setting(
        kinds.whole(1, 3650),
        "how long reports are kept, and who sent what was reported or blocked",
        90,
    )
    upload_window_in_hours: int = setting(
        kinds.whole(1, 24 * 30), "an unfinished upload without progress for so long is removed", 24
    )
    part_url_ttl_in_seconds: int = setting(
        kinds.whole(120, 3600), "how long a signed upload address lives", 3600
    )
    download_url_ttl_in_seconds: int = setting(
        # A store whose clock is a minute ahead must not find a new URL expired.
        kinds.whole(120, 300),
        "how long a signed download address lives, whoever has it",
        300,
    )
    download_window_in_minutes: int = setting(
        kinds.whole(1, 24 * 60),
        "repeats by one browser within this time are one download; longer for what is large",
        60,
    )
    zip_at_once: bool = setting(
        kinds.switch,
        "make the zip of each transfer when it has arrived; false: when first asked for",
        False,
    )
    previews: bool = setting(
        kinds.switch, "small pictures and players of what was sent, made by workers", True
    )
    preview_memory_in_mib: int = setting(
        kinds.whole(256, 16_384), "address space that making one preview may use", 1024
    )
    sweep_max_share_in_percent: int = setting(
        kinds.whole(0, 100), "a sweep refuses to remove a larger share of unknown things", 20
    )

    mail_url: str = setting(
        kinds.optional(kinds.mail_url),
        "where mail is handed over; empty means that there is none",
        "",
    )
    mail_from: str = setting(
        kinds.optional(kinds.mail_from),
        "the address all mail comes from; empty means noreply at the host of BASE_URL",
        "",
    )
    senders: tuple[str, ...] = setting(
        kinds.mail_senders,
        "who may send without an API key, after signing in: addresses and @domains; empty: anyone",
        (),
    )
    admin_emails: tuple[str, ...] = setting(
        kinds.mail_addresses,
        "who may open /admin, after signing in by mail, and is mailed reports; empty: nobody",
        (),
    )
    mail_require_tls: bool = setting(
        kinds.switch, "refuse to hand mail over where the server offers no STARTTLS", False
    )
    sns_topic_arn: str = setting(
        kinds.topic, "the SNS topic that is told who a transfer is shared with; empty: none", ""
    )
    sqs_queue_url: str = setting(
        kinds.optional(kinds.queue),
        "the SQS queue that `worker.py sqs` listens to; empty: none",
        "",
    )
    aws_endpoint_url: str = setting(
        kinds.optional(kinds.origin),
        "what stands in for AWS's own SES and SNS, for tests; empty means AWS",
        "",
    )
    max_recipients: int = setting(kinds.whole(1, 500), "people one transfer may be mailed to", 20)
    max_recipients_per_day: int = setting(
        kinds.whole(1, 1_000_000), "mails one sender's address may ask for in a day", 100
    )
    max_sends_per_hour: int = setting(
        kinds.whole(1, 1_000_000), "transfers one sender's address may mail in an hour", 8
    )
    max_recipients_per_network_per_hour: int = setting(
        kinds.whole(1, 1_000_000), "mails one network address may ask for in an hour", 60
    )
    max_mails_per_recipient_per_hour: int = setting(
        kinds.whole(1, 1_000_000), "mails one address gets in an hour, whoever asks for them", 5
    )
    max_mails_per_hour: int = setting(
        kinds.whole(1, 10_000_000),
        "mails this installation hands over in an hour; others wait",
        1000,
    )
    max_codes_per_hour: int = setting(
        kinds.whole(1, 1_000_000), "codes one network address may have mailed in an hour", 10
    )
    max_mailed_message_length: int = setting(
        kinds.whole(0, 5000), "characters of a sender's message that a mail repeats", 2000
    )
    remind_before_in_hours: int = setting(
        kinds.whole(1, 24 * 30), "how long before the end recipients and senders are reminded", 24
    )
    nobody_downloaded_after_in_days: int = setting(
        kinds.whole(1, 365), "after how long a sender is told that nobody has downloaded", 3
    )

    webhook_log_days: int = setting(
        kinds.whole(1, 365), "how long it is kept what became of each message to a webhook", 30
    )
    webhook_allow_loopback: bool = setting(
        kinds.switch,
        "webhooks may lead to this machine, by http too: for development and tests",
        False,
    )

    def __repr__(self) -> str:
        # Many of the values are secrets.
        return "Settings(...)"

    @property
    def sends_mail(self) -> bool:
        """Whether pages and the API offer to send mail."""
        return bool(self.mail_url)

    @property
    def publishes_shares(self) -> bool:
        """Whether mail to recipients goes through an SNS topic, not straight from the outbox."""
        return bool(self.sns_topic_arn)

    @property
    def mail_sender(self) -> str:
        """The From header of all mail."""
        host = urlsplit(self.base_url).hostname
        return self.mail_from or formataddr((self.site_name, f"noreply@{host}"))

    @property
    def own_email(self) -> str:
        """The address in mail_sender, in lower case, as rows hold addresses."""
        return parseaddr(self.mail_sender)[1].lower()

    @property
    def is_https(self) -> bool:
        """Whether the site is served over TLS, so that cookies must be Secure."""
        return self.base_url.startswith("https://")

    @property
    def hosts(self) -> set[str]:
        """The host names that we answer to."""
        return {urlsplit(one).hostname or "" for one in self.origins} | set(self.allowed_hosts)

    @property
    def origins(self) -> list[str]:
        """The origins of our pages; on loopback both localhost and 127.0.0.1."""
        here = [self.base_url]
        host = urlsplit(self.base_url).hostname
        twin = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}.get(host or "")
        return here + ([self.base_url.replace(f"//{host}", f"//{twin}", 1)] if twin else [])


def _read(one: "Field[Any]", environ: Mapping[str, str]) -> Any:
    given = environ.get(one.name.upper())
    if given is None or (not given.strip() and one.metadata["default"] is ...):
        if one.metadata["default"] is ...:
            raise ValueError("is required")
        return one.metadata["default"]
    return one.metadata["parse"](given)


def _without_proof(redis_url: str) -> str:
    """Turn off certificate verification; an ssl_cert_reqs in the URL itself takes precedence."""
    if not redis_url.startswith("rediss://"):
        return redis_url
    return f"{redis_url}{'&' if '?' in redis_url else '?'}ssl_cert_reqs=none"


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting; raises a ConfigError that names each bad or missing one."""
    values: dict[str, Any] = {}
    complaints: list[str] = []
    for one in fields(Settings):
        try:
            values[one.name] = _read(one, environ)
        except ValueError as error:
            complaints.append(f"{one.name.upper()} {error}")
    if not complaints and values["default_expires_in_days"] > values["max_expires_in_days"]:
        complaints.append("DEFAULT_EXPIRES_IN_DAYS must not be above MAX_EXPIRES_IN_DAYS")
    if not complaints and bool(values["s3_access_key_id"]) != bool(values["s3_secret_access_key"]):
        complaints.append(
            "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY belong together: set both or none"
        )
    cloudfront = [name for name in values if name.startswith("cloudfront_") and values[name]]
    if not complaints and cloudfront and len(cloudfront) < 3:
        complaints.append(
            "CLOUDFRONT_URL, CLOUDFRONT_KEY_PAIR_ID and CLOUDFRONT_PRIVATE_KEY belong together: "
            "set all three or none"
        )
    is_here = urlsplit(values.get("base_url", "")).hostname in {"localhost", "127.0.0.1"}
    if not complaints and values["webhook_allow_loopback"] and not is_here:
        # On a public site it would let strangers reach services that only this machine can (SSRF).
        complaints.append("WEBHOOK_ALLOW_LOOPBACK is only for a BASE_URL on this machine")
    if not complaints and values["senders"] and not values["mail_url"]:
        complaints.append("SENDERS needs MAIL_URL: a code is mailed to whoever signs in")
    if not complaints and values["sns_topic_arn"] and not values["mail_url"]:
        complaints.append("SNS_TOPIC_ARN needs MAIL_URL: codes and what senders hear go by it")
    if complaints:
        raise ConfigError("Beeline cannot start:\n  " + "\n  ".join(complaints))
    if not values["redis_tls_verify"]:
        values["redis_url"] = _without_proof(values["redis_url"])
    return Settings(**values)


class _Bound:
    """A proxy for the process's settings, which modules can import before `bind()` is called."""

    _now: Settings | None = None

    def __getattr__(self, name: str) -> Any:
        if self._now is None:
            raise RuntimeError("settings are not bound yet: create_app() does it")
        return getattr(self._now, name)


_bound = _Bound()
settings = cast(Settings, _bound)


def bind(values: Settings) -> None:
    """Make these the process's settings. create_app() calls it; tests may call it again."""
    _bound._now = values


def current() -> Settings:
    """The bound Settings object: tests and benchmarks bind a changed copy. Raises RuntimeError."""
    if _bound._now is None:
        raise RuntimeError("settings are not bound yet: create_app() does it")
    return _bound._now
