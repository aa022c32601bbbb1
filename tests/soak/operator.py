"""The operator: runs every sweep again and again, leaves rubbish in the bucket, lets time pass."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app import create_app
from app.db import db
from app.errors import Unavailable
from app.extensions import storage
from app.services import dry_runs, upkeep
from tests.lab.lab import Lab
from tests.soak.people import Memory
from tests.soak.rows import ask

FOREIGN = "somebody-else/"


class Operator:
    """Sweeps in a thread of its own while everything else goes on, by the same code as the jobs.

    Its sweeps judge without mercy: an orphan may be a second old, a stray multipart half a minute,
    because no living upload is ever an orphan, however young.
    """

    def __init__(self, lab: Lab, memory: Memory) -> None:
        self._lab, self._memory = lab, memory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._app = create_app(lab.stack.environ)
        upkeep.ORPHAN_FOR = timedelta(minutes=-5)
        upkeep.UNKNOWN_FOR = timedelta(seconds=30)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "a sweep hangs"

    def _run(self) -> None:
        while not self._over.wait(4):
            try:
                self.plant(3)
                self.let_grace_pass()
                self.sweep()
            except (Unavailable, SQLAlchemyError):
                self._memory.count("sweeps cut short")
            except Exception as error:
                self._memory.find(f"a sweep: {type(error).__name__}: {error}")

    def sweep(self, *, orphans: bool = True) -> dict[str, int]:
        """Every sweep once; what each did."""
        with self._inside():
            chosen = dry_runs.SWEEPS if orphans else dry_runs.SWEEPS[:-1]
            done = {one.about: one.run(**_force(one)) for one in chosen}
        for about, count in done.items():
            self._memory.count(f"swept: {about}", count)
        self._memory.count("sweeps")
        return done

    def plant(self, count: int) -> None:
        """Orphans below our prefix, strays that nobody completes, and things that are not ours."""
        prefix = "beeline/"
        for _ in range(count):
            name = secrets.token_hex(20)
            for below in (prefix, FOREIGN):
                self._s3.put_object(Bucket=self._bucket, Key=f"{below}{name}", Body=b"rubbish")
        self._s3.create_multipart_upload(Bucket=self._bucket, Key=f"{prefix}{name}")
        self._memory.count("foreign", count)

    def let_grace_pass(self) -> None:
        """For transfers that are to go, the grace period is over as soon as they have expired."""
        ask(
            self._lab,
            "UPDATE transfers SET expired_at = now() - interval '30 days'"
            " WHERE state = 'EXPIRED' AND id = ANY(%s::uuid[])",
            list(self._memory.to_go),
        )

    def let_addresses_die(self) -> None:
        """For uploads nobody wants, no byte can come any more: everybody has stopped sending."""
        ask(
            self._lab,
            "UPDATE uploads SET remove_after = now() - interval '1 second',"
            " urls_until = urls_until - interval '1 day'"
            " WHERE state = 'ABORTED' AND removed_at IS NULL",
        )

    def judge_strays_at_once(self) -> None:
        """Nobody begins an upload any more, so a multipart without its row will never have one."""
        upkeep.UNKNOWN_FOR = timedelta(minutes=-5)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with self._app.app_context():
            try:
                yield
            finally:
                db.session.remove()

    @property
    def _s3(self) -> Any:
        return self._lab.truth._s3

    @property
    def _bucket(self) -> str:
        return storage._bucket


def _force(one: dry_runs.Sweep) -> dict[str, bool]:
    return {"force": True} if one.may_refuse else {}
