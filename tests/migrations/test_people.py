"""Migrations of mail, requests and reports: existing data stays, and going back opens nothing."""

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.models import ExtensionRequest
from tests.migrations.database import Old


def test_0007_adds_requests_and_reports_and_going_back_opens_nothing(old: Old) -> None:
    old.migrate("upgrade", "0006")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, ready_at)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), :state, now() + interval '1 day', now())"
    )
    old.run(add, slug="before", state="READY")
    old.migrate("upgrade")
    # Old code, without quarantine, still writes rows.
    for slug, state in (("blocked", "READY"), ("moving", "INIT"), ("gone", "EXPIRED")):
        old.run(add, slug=slug, state=state)
    assert old.run("SELECT DISTINCT quarantined_at FROM transfers") == [(None,)]
    ask = (
        "INSERT INTO extension_requests (id, transfer_id, reason, asker_hash, day, message)"
        " SELECT gen_random_uuid(), id, 'expired', sha256(:who), '2030-01-01', :message"
        " FROM transfers WHERE slug = 'gone'"
    )
    old.run(ask, who=b"ada", message="")
    for who, message in ((b"ada", "again"), (b"bob", "x" * 501)):
        with pytest.raises(IntegrityError):
            old.run(ask, who=who, message=message)
    report = (
        "INSERT INTO abuse_reports (transfer_id, reason, message)"
        " SELECT id, 'malware', :message FROM transfers WHERE slug = 'blocked' RETURNING id"
    )
    assert old.run(report, message="x" * 2000) == [(1,)]
    with pytest.raises(IntegrityError):
        old.run(report, message="x" * 2001)
    old.run("UPDATE transfers SET quarantined_at = now() WHERE slug IN ('blocked', 'moving')")
    old.run("DELETE FROM transfers WHERE slug = 'gone'")
    assert old.run("SELECT count(*) FROM extension_requests") == [(0,)]
    old.migrate("downgrade", "0006")
    left = dict(old.run("SELECT slug, state::text FROM transfers"))
    assert left == {"before": "READY", "blocked": "EXPIRED", "moving": "EXPIRED"}
    old.migrate("upgrade")


def test_0009_adds_mail_and_going_back_leaves_the_transfers(old: Old) -> None:
    old.migrate("upgrade", "0008")
    add = (
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), :slug, sha256(:slug), 'INIT', now() + interval '1 day')"
    )
    old.run(add, slug="before")
    old.migrate("upgrade")
    # Old code, without mail, still writes rows and counts downloads.
    old.run(add, slug="written by old code")
    old.run("INSERT INTO downloads (id, transfer_id) SELECT gen_random_uuid(), id FROM transfers")
    news = "SELECT DISTINCT sender_email, sender_confirmed_at, muted FROM transfers"
    assert old.run(news) == [(None, None, [])]
    with pytest.raises(IntegrityError):
        old.run("UPDATE transfers SET sender_confirmed_at = now()")
    name = (
        "INSERT INTO recipients (id, transfer_id, email, slug)"
        " SELECT gen_random_uuid(), id, 'bo@example.org', :slug FROM transfers WHERE slug = 'before'"
    )
    old.run(name, slug="own")
    for slug in ("own", "another"):
        with pytest.raises(IntegrityError):
            old.run(name, slug=slug)
    mail = (
        "INSERT INTO outbox_mails (id, kind, email, about_id, n)"
        " SELECT gen_random_uuid(), 'reminder', email, id, :n FROM recipients"
    )
    old.run(mail, n=1)
    old.run(mail, n=2)
    with pytest.raises(IntegrityError):
        old.run(mail, n=1)
    old.migrate("downgrade", "0008")
    assert old.run("SELECT slug FROM transfers ORDER BY slug") == [
        ("before",),
        ("written by old code",),
    ]
    old.migrate("upgrade")


def test_0012_adds_a_block_list_and_can_be_taken_back(old: Old) -> None:
    old.migrate("upgrade", "0011")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'PROCESSING', now())"
    )
    report = "INSERT INTO abuse_reports (transfer_id, reason) SELECT id, 'malware' FROM transfers"
    old.run(report)
    old.migrate("upgrade", "0012")
    old.run(report)  # as older code still does
    assert old.run("SELECT DISTINCT file_sha256 FROM abuse_reports") == [(None,)]
    add = "INSERT INTO blocked_files (sha256, size, crc32, reason) VALUES (%s, %s, %s, 'malware')"
    good = ("sha256('x')", "1", "NULL")
    old.run(add % good)
    for wrong in (good, ("'short'", "1", "NULL"), ("sha256('y')", "0", "NULL"),
                  ("sha256('y')", "1", "'123'")):  # fmt: skip
        with pytest.raises(IntegrityError):
            old.run(add % wrong)
    old.migrate("downgrade", "0011")
    assert old.run("SELECT count(*) FROM abuse_reports") == [(2,)]
    old.migrate("upgrade")


def test_0014_keeps_opt_outs_and_going_back_forgets_only_what_bounced(old: Old) -> None:
    old.migrate("upgrade", "0011")
    added = "INSERT INTO opt_outs (email_hash{}) VALUES (sha256('{}'){})"
    old.run(added.format("", "asked", ""))
    old.migrate("upgrade")
    old.run(added.format("", "older code", ""))
    for reason in ("bounced", "complained"):
        old.run(added.format(", reason", reason, f", '{reason}'"))
    told = "SELECT reason::text FROM opt_outs ORDER BY reason"
    assert old.run(told) == [("asked",), ("asked",), ("bounced",), ("complained",)]
    old.migrate("downgrade", "0011")
    assert old.run("SELECT count(*) FROM opt_outs") == [(3,)]
    old.migrate("upgrade")


def test_0021_takes_reports_of_boards_and_going_back_hides_what_is_blocked(old: Old) -> None:
    old.migrate("upgrade", "0020")
    old.run("INSERT INTO workspaces (id, name) VALUES (gen_random_uuid(), 'Acme')")
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'INIT', now())"
    )
    for slug in ("good", "evil"):
        old.run(
            "INSERT INTO boards (id, slug, workspace_id, name)"
            " SELECT gen_random_uuid(), :slug, id, 'b' FROM workspaces",
            slug=slug,
        )
    report = "INSERT INTO abuse_reports (transfer_id, reason) SELECT id, 'malware' FROM transfers"
    old.run(report)
    old.migrate("upgrade", "0021")
    old.run(report)  # as older code still does
    old.run("INSERT INTO abuse_reports (board_id, reason) SELECT id, 'other' FROM boards")
    for wrong in (
        "INSERT INTO abuse_reports (reason) VALUES ('other')",
        "UPDATE abuse_reports SET board_id = (SELECT id FROM boards LIMIT 1)",
    ):
        with pytest.raises(IntegrityError):
            old.run(wrong)
    old.run("UPDATE boards SET quarantined_at = now() WHERE slug = 'evil'")
    old.migrate("downgrade", "0020")
    assert old.run("SELECT count(*) FROM abuse_reports") == [(2,)]
    assert old.run("SELECT count(*), count(*) FILTER (WHERE slug = 'good') FROM boards") == [(2, 1)]
    assert old.run("SELECT slug FROM boards WHERE slug = 'evil'") == []
    old.migrate("upgrade", "0021")


def test_0022_drops_an_index_and_older_code_still_announces(old: Old) -> None:
    indexes = "SELECT indexname FROM pg_indexes WHERE indexname LIKE '%to_announce'"
    old.migrate("upgrade", "0021")
    assert len(old.run(indexes)) == 1
    old.migrate("upgrade", "0022")
    assert old.run(indexes) == []
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at, expired_at, ready_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'EXPIRED', now(), now(), now())"
    )
    old.run(
        "INSERT INTO extension_requests (id, transfer_id, reason, asker_hash, day)"
        " SELECT gen_random_uuid(), id, 'expired', sha256('a'), now() FROM transfers"
    )
    old.run("UPDATE extension_requests SET announced_at = now()")
    # The current code does not name it, so that the next release may drop it.
    assert "announced_at" not in str(select(ExtensionRequest))
    old.migrate("downgrade", "0021")
    assert len(old.run(indexes)) == 1
    old.migrate("upgrade", "0022")


def test_0025_goes_back_without_the_mails_that_older_code_does_not_know(old: Old) -> None:
    old.migrate("upgrade", "0025")
    old.run(
        "INSERT INTO outbox_mails (id, kind, email, about_id) VALUES"
        " (gen_random_uuid(), 'received', 'ada@example.org', gen_random_uuid()),"
        " (gen_random_uuid(), 'code', 'ada@example.org', gen_random_uuid())"
    )
    old.migrate("downgrade", "0024")
    assert old.run("SELECT kind::text FROM outbox_mails") == [("code",)]
    old.migrate("upgrade", "0025")


def test_0026_takes_reports_of_file_requests_and_going_back_closes_what_is_blocked(
    old: Old,
) -> None:
    old.migrate("upgrade", "0025")
    for slug in ("good", "evil"):
        old.run(
            "INSERT INTO file_requests (id, slug, email, title, ends_at)"
            " VALUES (gen_random_uuid(), :slug, 'ada@example.org', 't', now() + interval '1 day')",
            slug=slug,
        )
    old.run(
        "INSERT INTO transfers (id, slug, owner_token_hash, state, expires_at)"
        " VALUES (gen_random_uuid(), 's', sha256('s'), 'INIT', now())"
    )
    report = "INSERT INTO abuse_reports (transfer_id, reason) SELECT id, 'malware' FROM transfers"
    old.run(report)
    old.migrate("upgrade", "0026")
    old.run(report)  # as older code still does
    old.run(
        "INSERT INTO abuse_reports (file_request_id, reason) SELECT id, 'other' FROM file_requests"
    )
    for wrong in (
        "INSERT INTO abuse_reports (reason) VALUES ('other')",
        "UPDATE abuse_reports SET file_request_id = (SELECT id FROM file_requests LIMIT 1)",
    ):
        with pytest.raises(IntegrityError):
            old.run(wrong)
    old.run("UPDATE file_requests SET quarantined_at = now() WHERE slug = 'evil'")
    old.migrate("downgrade", "0025")
    assert old.run("SELECT count(*) FROM abuse_reports") == [(2,)]
    assert old.run("SELECT slug FROM file_requests WHERE ends_at > now()") == [("good",)]
    old.migrate("upgrade", "0026")
