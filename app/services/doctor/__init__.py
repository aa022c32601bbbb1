"""Says whether the installation works: the table of checks, and how they are run.

Only what is certain is checked, and what an operator can change.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile

from app import timeouts
from app.db import in_own_session, release
from app.extensions import events
from app.redaction import redacted
from app.services.doctor import backing_services, bucket, figures, processes, urls
from app.services.doctor.findings import Check, Finding, Level, failed

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Level",
    "checks",
    "examine",
    "figures_in_time",
    "quick_look",
]

# The names of those that others need.
_DATABASE, _TABLES, _REDIS = "database", "migrations", "Redis"
_ADDRESS, _BUCKET, _PARTS = "storage address", "bucket", "parts"
_MAIL, _FIGURES = "mail server", "Figures"
# What each request needs too.
_OUR_OWN = {_DATABASE, _TABLES, _REDIS}
# Storage may need time for each of several requests; mail servers let strangers wait.
_STORAGE_SECONDS, _MAIL_SECONDS = 8.0, 8.0
# On a page none may take longer than this, and none begins when so much has passed for all.
PAGE_CHECK_SECONDS, PAGE_SECONDS = 2.0, 3.0
# The settings that say where something is, by check or by group.
_SETTINGS = {
    "Settings": "BASE_URL",
    "Database": "DATABASE_URL",
    "Redis": "REDIS_URL",
    "Storage": "S3_ENDPOINT_URL",
    "Mail": "MAIL_URL",
    "event queue": "SQS_QUEUE_URL",
}


def _settings(name: str, find: Callable[[], Finding]) -> Check:
    return Check("Settings", name, find)


def _database(name: str, find: Callable[[], Finding]) -> Check:
    return Check("Database", name, find, (_DATABASE,) if name != _DATABASE else ())


def _redis(name: str, find: Callable[[], Finding]) -> Check:
    return Check("Redis", name, find, (_REDIS,) if name != _REDIS else ())


def _storage(name: str, find: Callable[[], Finding], *needs: str) -> Check:
    return Check("Storage", name, find, needs, _STORAGE_SECONDS)


CHECKS = (
    _settings("BASE_URL", urls.base_url),
    _settings("web", urls.site),
    _database(_DATABASE, backing_services.database),
    _database(_TABLES, backing_services.migrations),
    _database("connections", backing_services.enough_connections),
    _database("database clock", backing_services.database_clock),
    _redis(_REDIS, backing_services.redis),
    _redis("memory", backing_services.redis_memory),
    _storage(_ADDRESS, urls.storage_address),
    _storage("storage clock", bucket.storage_clock, _ADDRESS),
    _storage(_BUCKET, bucket.bucket, _ADDRESS),
    _storage(_PARTS, bucket.parts, _BUCKET),
    _storage("whole files", bucket.whole_file, _BUCKET, _PARTS),
    _storage("checksums", bucket.checksums, _BUCKET, _PARTS),
    _storage("small files", bucket.single_put, _BUCKET),
    _storage("signed URLs", bucket.signed_urls, _BUCKET),
    _storage("forms", bucket.forms, _BUCKET),
    _storage("downloads", bucket.download, _BUCKET),
    _storage("CORS", bucket.cors, _BUCKET, _PARTS),
    _storage("lifecycle", bucket.lifecycle, _BUCKET),
    _storage("lost files", processes.lost_files, _TABLES),
    _storage("room", figures.room_left, _TABLES),
    Check("Mail", _MAIL, backing_services.mail, seconds=_MAIL_SECONDS),
    Check("Workers", "clock", processes.clock, (_REDIS,)),
    Check("Workers", "worker", processes.worker, (_REDIS,)),
    Check("Workers", "maker", processes.maker, (_REDIS,)),
    Check("Workers", "scheduled jobs", processes.sweeps, (_TABLES,)),
    Check("Workers", "long work", processes.long_work, (_TABLES,)),
    Check(_FIGURES, "kept in storage", figures.kept, (_TABLES,)),
    Check(_FIGURES, "transfers", figures.transfers, (_TABLES,)),
    Check(_FIGURES, "mails", figures.mails, (_TABLES,)),
    Check(_FIGURES, "webhooks waiting", figures.webhook_messages, (_TABLES,)),
    Check(_FIGURES, "waiting jobs", figures.waiting_jobs, (_REDIS,)),
    Check(_FIGURES, "failed jobs", figures.failed_jobs, (_REDIS,)),
    Check(_FIGURES, "open reports", figures.reports, (_TABLES,)),
    # Last, because on a page there may be no time left for it: 2 s for each million.
    Check(_FIGURES, "files", figures.files, (_TABLES,)),
)


def checks(mail_to: str | None = None) -> list[Check]:
    """All checks that concern this installation, in the order in which they are run.

    With `mail_to`, one of them sends a mail to that address.
    """
    found = list(CHECKS)
    if mail_to is not None:
        sending = partial(backing_services.send_test_mail, mail_to)
        _add(found, Check("Mail", "test mail", sending, (_MAIL,), _MAIL_SECONDS))
    if events.listens:
        _add(
            found, Check("Mail", "event queue", backing_services.event_queue, seconds=_MAIL_SECONDS)
        )
        _add(found, Check("Workers", "sqs", processes.listener, (_TABLES,)))
    return found


def _add(found: list[Check], check: Check) -> None:
    """Insert it as the last of its group."""
    last = max(at for at, one in enumerate(found) if one.group == check.group)
    found.insert(last + 1, check)


def quick_look() -> list[tuple[Check, Finding]]:
    """What the checks find that ask only PostgreSQL and Redis, for a page: a few seconds at most.

    Storage, mail and the way to the site take longer to try: `flask doctor` does that. Repeatable.
    """
    quick = [one for one in checks() if set(one.needs or [one.name]) <= _OUR_OWN]
    return _in_time([one for one in quick if one.group != _FIGURES])


def figures_in_time() -> list[tuple[str, str]]:
    """The figures by their names, for a page: those that take too long are left out, and say so.

    Each is one query, and most read a whole table: a fifth of a second for each million rows, but
    2 s for each million files.
    """
    # One that is slow is no reason to leave out the others.
    counted = [replace(one, needs=()) for one in CHECKS if one.group == _FIGURES]
    return [
        (check.name, finding.said if finding.level is Level.FIGURE else "not counted: too slow")
        for check, finding in _in_time(counted)
    ]


def _in_time(given: Sequence[Check]) -> list[tuple[Check, Finding]]:
    """Examine as many of them as there is time for while somebody waits for a page."""
    release()  # the reader's own connection, which nobody needs meanwhile
    until = time.monotonic() + PAGE_SECONDS
    chosen = [replace(one, seconds=PAGE_CHECK_SECONDS) for one in given]
    begun = takewhile(lambda check: time.monotonic() < until, chosen)
    found = list(examine(begun, lambda check: None))
    late = Finding(Level.SKIPPED, "Not tried, because the others took too long.")
    return found + [(one, late) for one in chosen[len(found) :]]


def examine(
    given: Iterable[Check], beginning: Callable[[Check], None]
) -> Iterator[tuple[Check, Finding]]:
    """Run these checks in order and yield what each has found; repeatable.

    `beginning` is called with each before it runs. None takes longer than it may, and what needs
    something that has failed is skipped, so that all end in half a minute even if nothing answers.
    """
    # What cannot be relied on, and the check that has failed for it.
    lost: dict[str, str] = {}
    for check in given:
        reason = next((lost[one] for one in check.needs if one in lost), None)
        if reason is not None:
            finding = Finding(Level.SKIPPED, f"Not tried, because of: {reason}.")
        else:
            beginning(check)
            reason, found = check.name, _look(check)
            finding = found or _no_answer(check)
            if found is None:
                # The others that need the same would hang as well.
                lost.update(dict.fromkeys(check.needs, check.name))
        if finding.level in (Level.FAILED, Level.SKIPPED):
            lost[check.name] = reason
        yield check, replace(finding, said=redacted(finding.said))


def _no_answer(check: Check) -> Finding:
    where = _SETTINGS.get(check.name) or _SETTINGS.get(check.group, "DATABASE_URL and REDIS_URL")
    return failed(
        f"There was no answer within {check.seconds:.0f} s. Look at {where}, for a firewall that "
        "swallows what is sent there, and whether it is overloaded."
    )


def _look(check: Check) -> Finding | None:
    """Run one check, in a thread, because not everything has a timeout: looking up a name has none.

    Returns None if it has not ended in time; it is left to itself then.
    """
    found: list[Finding] = []

    def look() -> None:
        with timeouts.as_in_a_request():
            found.append(_found(check))

    thread = threading.Thread(target=in_own_session(look), name=check.name, daemon=True)
    thread.start()
    try:
        thread.join(check.seconds)
    except KeyboardInterrupt:
        # It removes what it has put into the bucket.
        thread.join(check.seconds)
        raise
    return found[0] if found else None


def _found(check: Check) -> Finding:
    try:
        return check.find()
    except Exception as error:
        line = redacted(f"{type(error).__name__}: {error}").partition("\n")[0]
        return failed(
            f"This could not be checked: {line.rstrip('.')}. The parts above may say why."
        )
