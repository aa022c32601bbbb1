"""Checks of what Beeline stands on, storage aside: PostgreSQL, Redis, the mail server, SQS."""

import re
from datetime import timedelta
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path

from sqlalchemy import text

from app import clock
from app.clock import db_now
from app.config import settings
from app.db import db, reason_of, release
from app.errors import Outage
from app.extensions import events, mailer, queue
from app.gateways.mailer import Fate
from app.redaction import redacted
from app.services.doctor.findings import Finding, failed, ok, warning
from app.words import counted

MIGRATIONS = Path(__file__).parents[3] / "migrations"
OLDEST_POSTGRES = 13
READ_ONLY = (
    "The database is read-only. Let DATABASE_URL name the primary; if it does, look whether its "
    "disk or its plan is full."
)
OLDEST_REDIS = (6, 2)
# Clocks that differ by less do no harm: signed URLs allow for a minute.
MOST_SKEW_SECONDS = 60
# Redis is nearly full above this share.
FULL_PERCENT = 90
# Connections beside the web's pools: a job of worker and of maker, each with its heartbeat, a sweep
# with its second session, and an operator's psql.
OTHERS = 8

# -1 means no limit; reserved_connections came with PostgreSQL 16. Hosted plans limit all three.
_ALLOWED = """
SELECT least(
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0),
    (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = session_user),
    (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
)
"""


# -- PostgreSQL ----------------------------------------------------------------------------------


def database() -> Finding:
    """Whether the database answers, and may be written to."""
    try:
        version = int(db.session.execute(text("SHOW server_version_num")).scalar_one())
        is_read_only = db.session.execute(text("SHOW transaction_read_only")).scalar_one() == "on"
        release()
    except Exception as error:
        return failed(without_database(error))
    if is_read_only:
        return failed(READ_ONLY)
    if version // 10_000 < OLDEST_POSTGRES:
        return warning(
            f"PostgreSQL {version // 10_000} answers; Beeline is made for {OLDEST_POSTGRES} or "
            "later. Upgrade it."
        )
    return ok(f"PostgreSQL {version // 10_000} answers.")


def without_database(error: Exception) -> str:
    """What the database's driver said, without secrets, and what to do about it."""
    said = redacted(reason_of(error)).rstrip(".")
    if "read-only transaction" in said:
        return READ_ONLY
    if "No space left" in said:
        return f"The database has no room: {said}. Make room on its disk."
    return f"The database does not answer: {said}. Start it, or correct DATABASE_URL."


def migrations() -> Finding:
    """Whether the tables are those that this release needs."""
    # Imported here, because only migrations need Alembic, which is slow to import.
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.script.revision import RevisionError

    heads = MigrationContext.configure(db.session.connection()).get_current_heads()
    release()
    known = ScriptDirectory(str(MIGRATIONS))
    try:
        missing = [one.revision for one in known.iterate_revisions("heads", heads or "base")]
    except RevisionError:
        return warning(
            f"The tables are those of a newer release ({', '.join(heads)}). docs/operate.md says "
            'what that means, under "Going back to an older release".'
        )
    if missing:
        named = ", ".join(sorted(missing))
        return failed(
            f"The tables lack {counted(len(missing), 'migration', 'migrations')} ({named}). Run "
            "`flask release`."
        )
    return ok(f"The tables are those of this release ({', '.join(heads)}).")


def enough_connections() -> Finding:
    """Whether PostgreSQL allows as many connections as one web, worker, maker and clock open.

    What it allows is what ordinary roles may have in all, or the limit of our role or database.
    """
    allowed = db.session.execute(text(_ALLOWED)).scalar_one()
    release()
    needed = settings.web_concurrency * settings.database_pool_size + OTHERS
    said = f"Beeline may open {needed} database connections; PostgreSQL allows {allowed}."
    if needed > allowed:
        return failed(f"{said} Lower DATABASE_POOL_SIZE or WEB_CONCURRENCY.")
    return ok(said)


def database_clock() -> Finding:
    """Whether the clock of the database, which decides what has expired, agrees with ours."""
    before = clock.now()
    theirs = db.session.execute(db_now().select()).scalar_one()
    release()
    return judged_skew("The database", theirs - before, "the database's machine")


def judged_skew(whose: str, skew: timedelta, where: str) -> Finding:
    """How far another clock is ahead of ours, and whether that is too far."""
    seconds = skew.total_seconds()
    if abs(seconds) < 2:
        return ok(f"{whose} and this machine have the same time.")
    way = "ahead of" if seconds > 0 else "behind"
    said = f"{whose}'s clock is {abs(seconds):,.0f} s {way} this machine's."
    if abs(seconds) <= MOST_SKEW_SECONDS:
        return ok(said)
    return warning(f"{said} Let both this machine and {where} set their clocks by NTP.")


# -- Redis ---------------------------------------------------------------------------------------


def redis() -> Finding:
    """Whether Redis answers and accepts jobs."""
    try:
        queue.check()
        memory = queue.memory()
    except Exception as error:
        return failed(_without_redis(redacted(str(error))))
    if memory is None:
        return ok("Redis answers and accepts jobs.")
    if tuple(map(int, re.findall(r"\d+", memory.version)[:2])) < OLDEST_REDIS:
        oldest = ".".join(map(str, OLDEST_REDIS))
        return warning(f"Redis {memory.version} answers; Beeline is made for {oldest} or later.")
    return ok(f"Redis {memory.version} answers and accepts jobs.")


def _without_redis(said: str) -> str:
    if "maxmemory" in said:
        return "Redis is full and accepts no jobs. Raise its maxmemory or its plan."
    if "read only replica" in said:
        return "Redis is a read-only replica and accepts no jobs. Let REDIS_URL name the primary."
    told = f"Redis does not answer, and nothing that was sent is checked until it does: {said}"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return f"{told.rstrip('.')}. For a platform's own Redis see REDIS_TLS_VERIFY."
    return f"{told.rstrip('.')}. Start it, or correct REDIS_URL."


def redis_memory() -> Finding:
    """Whether Redis may drop jobs, or will soon accept no more."""
    memory = queue.memory()
    if memory is None:
        return ok("Redis does not let us ask about its memory (INFO).")
    if not memory.most:
        return ok("Redis has no limit on its memory, and drops nothing.")
    if memory.policy.startswith("allkeys"):
        return warning(
            f"When its memory is full, Redis drops jobs (maxmemory-policy is {memory.policy}), and "
            "their work waits until a sweep finds it. Set maxmemory-policy to noeviction."
        )
    percent = 100 * memory.used // memory.most
    said = f"{percent} % of Redis's memory is in use."
    if percent >= FULL_PERCENT:
        return warning(f"{said} When it is full it accepts no jobs: raise maxmemory or its plan.")
    return ok(said)


# -- mail and events -----------------------------------------------------------------------------


def mail() -> Finding:
    """Whether the mail server can be reached and lets us in; sends nothing."""
    if not mailer.is_on:
        return ok("MAIL_URL is empty: the pages do not offer mail.")
    if settings.mail_url.startswith("ses:"):
        return ok("Mail goes to SES, which is only asked when mail is sent; try --mail-to.")
    with mailer.line() as line:
        reason = line.open()
    if reason:
        return failed(
            f"No mail is sent: {redacted(reason).rstrip('.')}. Correct MAIL_URL, or look at that "
            "server."
        )
    return ok("The mail server takes our connection.")


def send_test_mail(address: str) -> Finding:
    """Send one mail to this address."""
    if not mailer.is_on:
        return failed("MAIL_URL is empty, so there is no server to hand mail to.")
    letter = EmailMessage()
    letter["From"], letter["To"] = mailer.sender, address
    letter["Subject"] = "Beeline can send mail"
    letter["Date"] = format_datetime(clock.now())
    letter["Message-ID"] = make_msgid(domain=mailer.envelope.rpartition("@")[2])
    letter["Auto-Submitted"] = "auto-generated"
    letter.set_content(f"This is a test by `flask doctor` of {settings.base_url}.\n")
    with mailer.line() as line:
        outcome = line.send(letter, address)
    if outcome.fate is Fate.TAKEN:
        return ok(f"A mail to {address} was handed over. Look whether it arrives, and as no spam.")
    return failed(
        f"A mail to {address} was not taken: {redacted(outcome.reason).rstrip('.')}. Look at "
        "MAIL_URL and MAIL_FROM."
    )


def event_queue() -> Finding:
    """Whether the queue of events answers, and what cannot be handled leaves it."""
    try:
        has_dead_letters = events.has_dead_letters()
    except Outage as error:
        return failed(
            f"{redacted(str(error))} Correct SQS_QUEUE_URL, or the permissions of the access key "
            '("Mail by way of SNS and SQS" in docs/operate.md).'
        )
    if not has_dead_letters:
        return warning(
            "The queue has no dead-letter queue: messages that cannot be handled come back for "
            "days. Give it a redrive policy with maxReceiveCount 20."
        )
    return ok("The queue answers, and has a dead-letter queue.")
