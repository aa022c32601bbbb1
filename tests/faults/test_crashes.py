"""Crash anywhere: death at every step of every operation, again and again, the same end state.

Two rounds of each in the suite; ROUNDS in the environment (an even number) makes it more.

The process dies as by SIGKILL; what its lease or claim keeps from others is then let lapse by moving
the rows' clocks, and the operation is simply run again, as the sweeps do.
"""

import hashlib
import io
import os
import re
import uuid
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from app import clock, crash
from app.config import MIB
from app.db import db, release, transaction
from app.extensions import storage
from app.models import (
    Archive,
    AssetVersion,
    Batch,
    Harm,
    Heartbeat,
    Inspection,
    State,
    Transfer,
    Upload,
    UploadState,
)
from app.services import abuse, archives, blocklist, downloads, transfer_view, transfers, upkeep
from tests.factories import Machine, Sender, Sent, http, put
from tests.keeper import Keeper, post_form
from tests.lab.crasher import DIED, Crasher
from tests.pictures import drawn, encoded

pytestmark = pytest.mark.real_commits
ROUNDS = int(os.environ.get("ROUNDS", "2"))
CONTENTS = {"a": b"1", "empty": b"", "big": b"b" * (8 * MIB + 1)}
STEPS = sorted(
    set(
        re.findall(
            r'crash\.point\("([\w.]+)"\)',
            "".join(path.read_text() for path in Path("app/services").glob("*.py")),
        )
    )
)


@pytest.fixture(scope="module")
def crasher(app: Flask, environ: dict[str, str]) -> Iterator[Crasher]:
    made = Crasher(environ)
    yield made
    made.close()


@pytest.fixture
def keeper(client: FlaskClient, inside: None) -> Keeper:
    """A program that keeps assets."""
    return Keeper(client)


def let_lapse() -> None:
    """As if two minutes had passed since whoever worked here died."""
    past = clock.now() - timedelta(seconds=1)
    with transaction():
        for row in (Transfer, Archive, Batch, Inspection):
            db.session.execute(update(row).values(lease_until=past, queued_at=None))
        db.session.execute(
            update(Upload).where(Upload.removed_at.is_(None)).values(remove_after=past)
        )
        db.session.execute(update(Heartbeat).values(busy_until=past))


def settle_removals() -> None:
    """As if every signed address had died long ago."""
    let_lapse()
    with transaction():
        db.session.execute(update(Upload).values(urls_until=clock.now() - timedelta(hours=1)))
    upkeep.remove_bytes()


def stored(sent: Sent) -> list[bool]:
    """For each upload there ever was of the transfer: whether storage holds its object."""
    return [storage.head(file.upload.key) is not None for file in transfers.files_of(sent.id)]


def open_multiparts(sent: Sent) -> int:
    keys = {file.upload.key for file in transfers.files_of(sent.id)}
    return sum(one.key in keys for page in storage.open_uploads() for one in page)


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("process.")])
def test_process(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    for _ in range(ROUNDS):
        sent = sender.create(CONTENTS).upload().complete()
        assert crasher.run("process", str(sent.id), dies_at=step) == DIED
        assert sent.row().state in (State.PROCESSING, State.READY)
        let_lapse()
        assert crasher.run("process", str(sent.id)) == 0
        assert sent.row().state is State.READY
        assert stored(sent) == [True] * len(CONTENTS)
        assert open_multiparts(sent) == 0


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("stage.")])
def test_a_file_by_one_put(step: str, crasher: Crasher, machine: Machine, inside: None) -> None:
    for done in range(1, ROUNDS + 1):
        made = machine.make(max_downloads=2)
        sent = Sent(machine.client, made)
        told = machine.native("POST", f"/{made['id']}/upload-url", json={"filename": "a"})
        put(told.json["upload_url"], b"1")
        assert crasher.run("stage", made["id"], dies_at=step) == DIED
        let_lapse()
        assert crasher.run("stage", made["id"]) == 0
        assert sent.row().state is State.READY
        assert stored(sent) == [True]
        settle_removals()
        # Of every copy that was begun there is one, and nothing where it was put.
        assert open_multiparts(sent) == 0
        assert storage.head(told.json["object_key"]) is None
        left = select(Upload.state).where(Upload.removed_at.is_(None))
        assert db.session.scalars(left).all() == [UploadState.COMPLETE] * done


# A check of more files goes by the steps of a check, and has an end of its own.
@pytest.mark.parametrize("step", [*(f"process.{n}" for n in (1, 2, 3, 4)), "batch.1", "batch.2"])
def test_a_batch(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    """Whenever it dies, recipients have what was there, and then all of it, once."""
    for _ in range(ROUNDS):
        sent = sender.ready({"there": b"0"})
        answer = sent.call(
            "POST",
            "/files",
            json={"files": [{"path": p, "size": len(CONTENTS[p])} for p in CONTENTS]},
        )
        batch = Sent(sent.client, sent.json | {"files": answer.json["files"]}, CONTENTS)
        batch.upload().complete()
        assert crasher.run("process_batch", str(sent.id), dies_at=step) == DIED
        seen = [file.path for file in transfer_view.view(sent.slug).files]
        assert seen == (["there", *CONTENTS] if step == "batch.2" else ["there"])
        let_lapse()
        assert crasher.run("process_batch", str(sent.id)) == 0
        assert [file.path for file in transfer_view.view(sent.slug).files] == ["there", *CONTENTS]
        assert (sent.row().batch_count, sent.show()["batch"]) == (1, None)
        assert stored(sent) == [True] * (1 + len(CONTENTS))
        assert open_multiparts(sent) == 0


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("archive.")])
def test_zip(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    for _ in range(ROUNDS):
        sent = sender.ready(CONTENTS)
        archives.request(sent.id)
        assert crasher.run("build", str(sent.id), dies_at=step) == DIED
        let_lapse()
        assert crasher.run("build", str(sent.id)) == 0
        found = archives.find(sent.id)
        assert found is not None
        assert found.ready_at is not None
        assert found.upload.state is UploadState.COMPLETE
        made = http.request("GET", downloads.zip_url(sent.slug, None).url).data
        with zipfile.ZipFile(io.BytesIO(made)) as opened:
            assert {name: opened.read(name) for name in opened.namelist()} == CONTENTS
        keys = {one.key for page in storage.open_uploads() for one in page}
        assert found.upload.key not in keys


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("inspect.")])
def test_a_file_of_the_block_list(
    step: str, crasher: Crasher, sender: Sender, inside: None
) -> None:
    """Whenever its reader dies: stopped before READY, reported once, and read no more."""
    blocklist.add(hashlib.sha256(CONTENTS["big"]).digest(), len(CONTENTS["big"]), Harm.MALWARE)
    for _ in range(ROUNDS):
        sent = sender.create(CONTENTS).upload().complete().process()
        assert sent.row().state is State.PROCESSING
        (held,) = db.session.scalars(select(Inspection.upload_id)).all()
        release()
        assert crasher.run("inspect", str(held), dies_at=step) == DIED
        let_lapse()
        assert crasher.run("inspect", str(held)) == 0
        assert sent.process().row().state is State.READY
        assert sent.row().quarantined_at is not None
        assert abuse.open_count(sent.id) == 1
        assert db.session.scalar(select(func.count()).select_from(Inspection)) == 0
        release()


# The second step of a check lies between Complete and HEAD, and an early one passes it as well.
@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("unlock.")] + ["process.2"])
def test_unlocking_files(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    """Done again it comes to its end, and so does "that is all" if it is never done again."""
    for is_again in (False, True) * (ROUNDS // 2):
        sent = sender.create(CONTENTS | {"late": b"l"}).upload(without=(("late", 1),))
        sent.name(*CONTENTS)
        assert crasher.run("unlock", str(sent.id), dies_at=step) == DIED
        if is_again:
            let_lapse()
            assert crasher.run("unlock", str(sent.id)) == 0
            states = [file["state"] for file in sent.show()["files"]]
            assert states == ["COMPLETE"] * len(CONTENTS) + ["OPEN"]
        assert sent.row().state is State.INIT
        (part,) = sent.sign(sent.files[-1])
        put(part["url"], b"l", part["headers"])
        assert sent.complete().process().show()["status"] == "READY"
        assert stored(sent) == [True] * (len(CONTENTS) + 1)
        assert open_multiparts(sent) == 0


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("begin.")])
def test_begin_upload(
    step: str, crasher: Crasher, sender: Sender, inside: None, monkeypatch
) -> None:
    for _ in range(ROUNDS):
        sent = sender.create(CONTENTS)
        assert crasher.run("begin", str(sent.id), dies_at=step) == DIED
        assert sent.upload().complete().process().show()["status"] == "READY"
        # A multipart whose id nobody wrote down is found by the sweep, and only that.
        monkeypatch.setattr(upkeep, "UNKNOWN_FOR", timedelta(seconds=-60))
        alive = sender.create(CONTENTS).upload()
        # By force: what tests before this one left open, their rows gone, are strangers to it.
        upkeep.abort_unknown_uploads(force=True)
        assert open_multiparts(sent) == 0
        assert open_multiparts(alive) == 1


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("delete.")])
def test_delete(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    for half in (False, True) * (ROUNDS // 2):
        sent = sender.create(CONTENTS).upload() if half else sender.ready(CONTENTS)
        assert crasher.run("delete", str(sent.id), dies_at=step) == DIED
        crasher.run("delete", str(sent.id))
        settle_removals()
        assert sent.row().state is State.DELETED
        assert stored(sent) == [False] * len(CONTENTS)
        assert open_multiparts(sent) == 0


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("remove.")])
def test_removing_bytes(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    for half in (False, True) * (ROUNDS // 2):
        sent = sender.create(CONTENTS).upload() if half else sender.ready(CONTENTS)
        transfers.delete(sent.id)
        assert crasher.run("remove_bytes", dies_at=step) == DIED
        settle_removals()
        assert stored(sent) == [False] * len(CONTENTS)
        assert open_multiparts(sent) == 0
        left = select(func.count()).where(Upload.removed_at.is_(None))
        assert db.session.scalar(left) == 0


@pytest.mark.parametrize("verb", ["expire_due", "delete_expired", "delete_abandoned"])
@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("sweep.")])
def test_sweeps(step: str, verb: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    past = clock.now() - timedelta(days=30)
    for _ in range(ROUNDS):
        sent = sender.create() if verb == "delete_abandoned" else sender.ready()
        sent.set(expires_at=past, last_activity_at=past)
        if verb == "delete_expired":
            upkeep.expire_due()
            sent.set(expired_at=past)
        assert crasher.run(verb, dies_at=step) == DIED
        assert crasher.run(verb) == 0
        expected = State.EXPIRED if verb == "expire_due" else State.DELETED
        assert sent.row().state is expected
        if expected is State.DELETED:
            settle_removals()
            assert stored(sent) == [False]
            states = {file.upload.state for file in transfers.files_of(sent.id)}
            assert states == {UploadState.ABORTED}


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("revive.")])
def test_reviving(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    for _ in range(ROUNDS):
        sent = sender.ready(CONTENTS).set(expires_at=clock.now() - timedelta(seconds=1))
        upkeep.expire_due()
        assert crasher.run("revive", str(sent.id), dies_at=step) == DIED
        assert sent.row().state is State.EXPIRED
        assert crasher.run("revive", str(sent.id)) == 0
        assert sent.row().state is State.READY
        assert stored(sent) == [True] * len(CONTENTS)


@pytest.mark.parametrize("step", [s for s in STEPS if s.startswith("thumbnail.")])
def test_the_picture_of_an_asset(step: str, crasher: Crasher, keeper: Keeper) -> None:
    body = encoded(drawn(), "PNG")
    for _ in range(ROUNDS):
        kept = keeper.keep(body, fileType="image/png", fileName="a.png")
        of_it = AssetVersion.asset_id == uuid.UUID(kept["assetId"])
        version_id = str(db.session.scalar(select(AssetVersion.id).where(of_it)))
        release()
        assert crasher.run("thumbnail", version_id, dies_at=step) == DIED
        with transaction():
            past = clock.now() - timedelta(seconds=1)
            db.session.execute(update(AssetVersion).where(of_it).values(claimed_until=past))
        assert crasher.run("thumbnail", version_id) == 0
        url = keeper.show(kept["assetId"])["thumbnailUrl"]
        assert http.request("GET", url).data.startswith(b"\xff\xd8\xff")  # JPEG


@pytest.mark.parametrize("step", ["asset.1", "asset.2"])
def test_an_asset_that_arrives(
    step: str, crasher: Crasher, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(at: str) -> None:
        if at == step:
            raise SystemExit

    for _ in range(ROUNDS):
        if step == "asset.1":
            started = keeper.start()
            parts = keeper.send(started, b"hello")
            with monkeypatch.context() as patched:
                patched.setattr(crash, "point", die)
                with pytest.raises(SystemExit):
                    keeper.complete(started, parts)
            assert keeper.complete(started, parts).status_code == 200
            assert keeper.fetch(started["assetId"]) == b"hello"
            continue
        form = keeper.params().json
        assert post_form(form, b"hello").status == 201
        assert crasher.run("confirm_posted", dies_at=step) == DIED
        with transaction():
            db.session.execute(update(AssetVersion).values(look_after=clock.now()))
        assert crasher.run("confirm_posted") == 0
        led = keeper.get("/download", key=form["fields"]["key"])
        assert http.request("GET", led.headers["Location"]).data == b"hello"


@pytest.mark.parametrize("step", ["forget.1", "drop.1", "sweep.1", "sweep.2"])
def test_forgetting_and_dropping(step: str, crasher: Crasher, sender: Sender, inside: None) -> None:
    verb = "forget_deleted" if step.startswith("forget.") else "drop_tombstones"
    for _ in range(ROUNDS):
        sent = sender.ready(CONTENTS)
        ids = [file.upload_id for file in transfers.files_of(sent.id)]
        transfers.delete(sent.id)
        settle_removals()
        with transaction():
            long_ago = clock.now() - timedelta(days=91)
            db.session.execute(update(Transfer).values(deleted_at=long_ago))
            db.session.execute(update(Upload).values(removed_at=long_ago))
        assert crasher.run(verb, dies_at=step) == DIED
        for again in ("forget_deleted", "drop_tombstones"):
            assert crasher.run(again) == 0
        assert db.session.scalar(select(func.count()).where(Transfer.id == sent.id)) == 0
        assert db.session.scalar(select(func.count()).where(Upload.id.in_(ids))) == 0


def test_every_step_is_covered() -> None:
    """A new operation's steps need a test here."""
    known = (
        "process", "archive", "unlock", "begin", "delete", "remove", "revive", "sweep", "forget",
        "drop", "mail", "webhook", "stage", "batch", "inspect", "thumbnail", "asset",
        "preview",  # by tests/services/test_previewing.py
        "publish", "listen",  # by tests/faults/test_mail_topic.py
        "confirm",  # by tests/api/test_files.py
    )  # fmt: skip
    assert {step.split(".")[0] for step in STEPS} == set(known)
    for name in known:
        numbers = [int(step.split(".")[1]) for step in STEPS if step.startswith(f"{name}.")]
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
