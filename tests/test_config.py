"""Settings: read once, refused with all errors together, and all documented."""

import subprocess
import sys
from dataclasses import fields
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from app import config

GOOD = {
    "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz",
    "BASE_URL": "https://send.example.org/",
    "DATABASE_URL": "postgres://u:p@h/db",
    "REDIS_URL": "redis://h",
    "S3_BUCKET": "b",
}

DATABASE = "postgresql://user:password@host:port/name"
PUBLIC = "of the public DNS, separated by spaces"
ENCODED = "percent-encode special characters in its user and password (%40 for @, %2F for /)"


def test_f43_heroku_addresses_are_taken_as_they_come() -> None:
    settings = config.load(GOOD)
    assert settings.database_url == "postgresql+psycopg2://u:p@h/db"
    assert settings.base_url == "https://send.example.org"
    assert settings.is_https
    assert settings.origins == ["https://send.example.org"]


def test_other_hosts_may_be_names_and_addresses() -> None:
    settings = config.load(GOOD | {"ALLOWED_HOSTS": "Files.example.org box 192.0.2.7 2001:db8::1"})
    assert settings.allowed_hosts == ("files.example.org", "box", "192.0.2.7", "2001:db8::1")


@pytest.mark.parametrize(
    "given",
    ["u@server:p@h/db", "u:p%40%2F@h:5/db", "u:p/#?@h/db", "/db?host=/run/postgresql", "u@[::1]/d"],
)
def test_other_addresses_of_databases_are_taken(given: str) -> None:
    settings = config.load(GOOD | {"DATABASE_URL": f"postgresql://{given}"})
    assert settings.database_url == f"postgresql+psycopg2://{given}"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("HTTPS://Send.Example.org:443/", "https://send.example.org"),
        ("https://send.example.org:8443", "https://send.example.org:8443"),
        ("http://Box.lan:80", "http://box.lan"),
        ("https://müller.example", "https://xn--mller-kva.example"),
        ("http://[2001:DB8::1]:8000", "http://[2001:db8::1]:8000"),
    ],
)
def test_our_own_address_is_spelled_as_browsers_spell_it(given: str, used: str) -> None:
    """CORS rules compare origins literally, and hosts are compared with what browsers send."""
    settings = config.load(GOOD | {"BASE_URL": given, "S3_ENDPOINT_URL": given})
    assert settings.origins == [used]
    assert settings.s3_endpoint_url == used
    assert settings.is_https == used.startswith("https")


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("rediss://:pw@h:1", "rediss://:pw@h:1?ssl_cert_reqs=none"),
        ("rediss://h/0?protocol=2", "rediss://h/0?protocol=2&ssl_cert_reqs=none"),
        ("redis://h", "redis://h"),
    ],
)
def test_the_certificate_of_redis_is_verified_unless_switched_off(url: str, used: str) -> None:
    assert config.load(GOOD | {"REDIS_URL": url}).redis_url == url
    settings = config.load(GOOD | {"REDIS_URL": url, "REDIS_TLS_VERIFY": "false"})
    assert settings.redis_url == used


def test_loopback_may_be_opened_by_either_name() -> None:
    settings = config.load(GOOD | {"BASE_URL": "http://127.0.0.1:8000"})
    assert settings.origins == ["http://127.0.0.1:8000", "http://localhost:8000"]


def test_s24_webhooks_may_only_lead_to_loopback_on_a_local_installation() -> None:
    assert not config.load(GOOD).webhook_allow_loopback
    here = GOOD | {"BASE_URL": "http://127.0.0.1:8000", "WEBHOOK_ALLOW_LOOPBACK": "true"}
    assert config.load(here).webhook_allow_loopback


def test_all_errors_are_reported_together() -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load({"SECRET_KEY": "short", "MAX_FILES": "many", "LOG_LEVEL": "LOUD"})
    for name in (
        "SECRET_KEY",
        "BASE_URL",
        "DATABASE_URL",
        "REDIS_URL",
        "S3_BUCKET",
        "MAX_FILES",
        "LOG_LEVEL",
    ):
        assert name in str(caught.value)
    assert "short" not in str(caught.value).replace("SECRET_KEY", "")


@pytest.mark.parametrize("secret", ["", "changeme", "a" * 64, "0123456789abcdefghijklmnopqrst"])
def test_s34_a_default_or_short_secret_is_refused(secret: str) -> None:
    with pytest.raises(config.ConfigError, match="SECRET_KEY"):
        config.load(GOOD | {"SECRET_KEY": secret})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BASE_URL", "send.example.org"),
        ("BASE_URL", "https://send.example.org/path"),
        ("BASE_URL", "https://user:pw@send.example.org"),
        ("BASE_URL", "https://send.example.org?a=b"),
        ("BASE_URL", "https://send.example.org#top"),
        ("BASE_URL", "https://straße.example"),
        ("BASE_URL", "https://send.example.org:https"),
        ("S3_ENDPOINT_URL", "https://user:pw@s3.example.org"),
        ("MAIL_URL", "smtp://me:p%C3%A4ss@mail.example.org"),
        ("DATABASE_URL", "mysql://x"),
        ("REDIS_URL", "http://x"),
        ("PART_URL_TTL_IN_SECONDS", "3601"),  # F03, S15: the URL works for anyone who has it
        ("DOWNLOAD_URL_TTL_IN_SECONDS", "301"),  # S16: as above
        ("DOWNLOAD_URL_TTL_IN_SECONDS", "119"),  # storage's clock may be a minute fast
        ("S3_PREFIX", ""),
        ("S3_PREFIX", "../"),
        ("DEFAULT_EXPIRES_IN_DAYS", "91"),
        ("S3_CONDITIONAL_WRITES", "maybe"),
        ("S3_CHECKSUMS", "maybe"),
        ("ABUSE_CONTACT", "write to us"),
        ("ABUSE_CONTACT", "javascript:alert(1)"),
        ("ABUSE_CONTACT", "a@b?subject=x"),
        ("CLOUDFRONT_URL", "http://d1.cloudfront.net"),
        ("CLOUDFRONT_URL", "https://d1.cloudfront.net/path"),
        ("CLOUDFRONT_KEY_PAIR_ID", "K1&x=y"),
        ("JWT_SECRET", "short"),
        ("JWT_SECRET_FALLBACKS", "short"),
        ("OPT_OUT_KEYS", "short"),
        ("JWT_TTL_IN_MINUTES", "1441"),
        ("WEBHOOK_LOG_DAYS", "0"),
        ("ALLOWED_HOSTS", "https://files.example.org"),
        ("ALLOWED_HOSTS", "files.example.org:8443"),
        ("S3_ACCESS_KEY_ID", "alone"),
        ("S3_SECRET_ACCESS_KEY", "alone"),
        ("ADMIN_EMAILS", "ada"),
        ("ADMIN_EMAILS", "ada@example.org,bo@example.org"),
        ("ADMIN_EMAILS", "Ada <ada@example.org>"),
        ("WEBHOOK_ALLOW_LOOPBACK", "true"),  # S24: GOOD's BASE_URL is public
    ],
)
def test_invalid_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(config.ConfigError, match=name):
        config.load(GOOD | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MAX_FILES", "many", "must be a whole number from 1 to 10000"),
        ("MAX_FILES", "9" * 5000, "must be a whole number from 1 to 10000"),
        ("TRUSTED_PROXIES", "", "must be a whole number from 0 to 10"),
        ("MAX_TRANSFER_SIZE", "1 TiB", f"must be a whole number from 1 to {2**62}"),
        ("S3_BUCKET", " ", "is required"),
        ("DATABASE_URL", "postgres://u:p@ss@h/db", f"must be {DATABASE}; {ENCODED}"),
        ("DATABASE_URL", "postgres://u:p@s/s@h/db", f"must be {DATABASE}; {ENCODED}"),
        ("DATABASE_URL", "postgres://u:p@h:port/db", f"must be {DATABASE}; {ENCODED}"),
        ("REDIS_URL", "redis://:p/a@h", f"must be redis://:password@host:port/number; {ENCODED}"),
        (
            "ADMIN_EMAILS",
            "ada@example.org bo@office.local",
            f"must be mail addresses {PUBLIC}: number 2 is not one",
        ),
        (
            "SENDERS",
            "@example.org, ada@example.org",
            f"must be mail addresses or @domains {PUBLIC}: number 1 is not one",
        ),
        ("BASE_URL", "https://send.example.org:https", "must be an absolute http(s) address"),
        ("S3_ENDPOINT_URL", "https://[::1", "must be an absolute http(s) address"),
        (
            "BASE_URL",
            f"https://{'ü' * 64}.example",
            "must name its host as browsers send it, with xn--",
        ),
    ],
)
def test_errors_of_values_are_worded_by_us(name: str, value: str, said: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.load(GOOD | {name: value})
    assert str(caught.value) == f"Beeline cannot start:\n  {name} {said}"


@pytest.mark.parametrize("command", [["-m", "flask", "keys", "list"], ["worker.py", "clock"]])
def test_commands_name_what_is_missing_without_a_traceback(command: list[str]) -> None:
    given = {name: value for name, value in GOOD.items() if name != "S3_BUCKET"}
    done = subprocess.run(
        [sys.executable, *command], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "Error: Beeline cannot start:\n  S3_BUCKET is required\n"


def test_an_empty_region_is_the_usual_one() -> None:
    assert config.load(GOOD | {"S3_REGION": ""}).s3_region == config.load(GOOD).s3_region


@pytest.mark.parametrize("name", ["Night & Day", "Day, Inc. <x>", "Büro Süd"])
def test_without_another_sender_mail_is_from_the_site(name: str) -> None:
    settings = config.load(GOOD | {"SITE_NAME": name})
    letter = EmailMessage(policy=policy.SMTP)
    letter["From"] = settings.mail_sender
    read = message_from_bytes(bytes(letter), policy=policy.default)["From"].addresses
    assert [(one.display_name, one.addr_spec) for one in read] == [(name, settings.own_email)]
    assert settings.own_email.startswith("noreply@")


def test_links_in_the_footer_are_words_and_an_address() -> None:
    said = " Legal notice  https://example.org/legal?a=1 |Help mailto:help@example.org "
    assert config.load(GOOD | {"FOOTER_LINKS": said}).footer_links == (
        ("Legal notice", "https://example.org/legal?a=1"),
        ("Help", "mailto:help@example.org"),
    )
    assert config.load(GOOD | {"FOOTER_LINKS": " "}).footer_links == ()


@pytest.mark.parametrize(
    "said", ["Legal", "https://example.org", "a javascript:alert(1)", "a https:///", "a https://x|"]
)
def test_other_links_are_refused(said: str) -> None:
    with pytest.raises(config.ConfigError, match="FOOTER_LINKS must be words, a space and an"):
        config.load(GOOD | {"FOOTER_LINKS": said})


@pytest.mark.parametrize("said", ["", "abuse@example.org", "https://example.org/abuse?a=b"])
def test_the_abuse_contact_is_a_mail_address_or_a_page(said: str) -> None:
    assert config.load(GOOD | {"ABUSE_CONTACT": said}).abuse_contact == said


def test_admins_are_spelled_as_rows_hold_them() -> None:
    assert config.load(GOOD).admin_emails == ()
    said = " Ada@Example.org  bo@b\u00fccher.example\tcy@xn--bcher-kva.example"
    assert config.load(GOOD | {"ADMIN_EMAILS": said}).admin_emails == (
        "ada@example.org",
        "bo@b\u00fccher.example",
        "cy@b\u00fccher.example",
    )


def test_s32_settings_do_not_show_themselves() -> None:
    keys = {"S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "canary"}
    settings = config.load(GOOD | keys)
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert "canary" not in shown
        assert GOOD["SECRET_KEY"] not in shown


def test_every_setting_is_documented() -> None:
    written = Path("docs/operate.md").read_text()
    missing = [
        one.name.upper()
        for one in fields(config.Settings)
        if f"`{one.name.upper()}`" not in written
    ]
    assert missing == []
