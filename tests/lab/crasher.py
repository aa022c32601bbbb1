"""Runs service functions in child processes that may die at a named step (app/crash.py).

`python -m tests.lab.crasher` reads one JSON line for each run, {"step", "verb", "args"}, forks a
child that runs it, and prints the child's exit code: 137 means that it died at the step. Forking
one warm process is a hundred times faster than starting a new one for each run.
"""

import json
import os
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

DIED = 137


class Crasher:
    """The parent's side: controls a warm process with the given environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.crasher"],
            env=os.environ | dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *args: str, dies_at: str | None = None) -> int:
        """Run a verb in its own child process; returns the exit code."""
        assert self._process.stdin
        assert self._process.stdout
        line = json.dumps({"step": dies_at, "verb": verb, "args": args})
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the warm process."""
        self._process.communicate("")


def _verbs() -> dict[str, Callable[..., Any]]:
    import flask_migrate

    from app import clock
    from app.errors import NotNow
    from app.services import (
        archives,
        asset_upkeep,
        batches,
        blocklist_scan,
        checking,
        early_completion,
        event_queue,
        mail_topic,
        options,
        outbox,
        planning,
        sending,
        staging,
        thumbnails,
        tombstones,
        transfers,
        upkeep,
        webhook_outbox,
    )

    def begin(transfer_id: str) -> None:
        transfer = transfers.of_id(uuid.UUID(transfer_id))
        wanted = [
            sending.Wanted(file.id, tuple(range(1, planning.part_count(file.upload) + 1)))
            for file in transfers.files_of(transfer.id)
        ]
        sending.sign_parts(transfer, wanted, 0)

    def revive(transfer_id: str) -> None:
        transfer = transfers.of_id(uuid.UUID(transfer_id))
        options.edit(transfer, {"expires_at": clock.now() + timedelta(days=1)})

    def stage(transfer_id: str) -> None:
        # If an earlier run has died after its commit, this one is refused.
        with suppress(NotNow):
            staging.complete(transfers.of_id(uuid.UUID(transfer_id)))

    return {
        "begin": begin,
        "stage": stage,
        "process": checking.process,
        "build": archives.build,
        "process_batch": batches.process,
        "unlock": early_completion.complete_sent,
        "inspect": blocklist_scan.inspect,
        "delete": lambda transfer_id: transfers.delete(uuid.UUID(transfer_id)),
        "expire_due": upkeep.expire_due,
        "delete_expired": upkeep.delete_expired,
        "delete_abandoned": upkeep.delete_abandoned,
        "revive": revive,
        "forget_deleted": tombstones.forget_deleted,
        "drop_tombstones": tombstones.drop_tombstones,
        "remove_bytes": upkeep.remove_bytes,
        "send_mail": outbox.send_due,
        "thumbnail": thumbnails.make,
        "confirm_posted": asset_upkeep.confirm_posted,
        "upgrade": lambda to: flask_migrate.upgrade("migrations", revision=to),
        "downgrade": lambda to: flask_migrate.downgrade("migrations", revision=to),
        "send_webhooks": webhook_outbox.send_webhooks,
        "publish_shares": mail_topic.publish_due,
        "take_messages": event_queue.take_messages,
    }


def _serve() -> None:
    from app import crash, create_app, get_ready

    app = create_app()
    verbs = _verbs()
    get_ready()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            crash.AT = order["step"]
            code = 1
            try:
                with app.app_context():
                    verbs[order["verb"]](*order["args"])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
