"""Breaks things by the plan, one after the other, and mends each before the next."""

import threading
import time
from collections.abc import Callable

import redis

from tests.lab import s3faults
from tests.lab.lab import Lab
from tests.soak.people import Memory
from tests.soak.plan import Plan, Strike
from tests.soak.rows import ask

PROCESSES = ("web", "web.2", "worker", "worker.2", "maker", "clock")


class Saboteur:
    """A thread of its own; whatever it broke is whole again when it has stopped."""

    def __init__(self, lab: Lab, plan: Plan, memory: Memory) -> None:
        self._lab, self._plan, self._memory = lab, plan, memory
        self._over = threading.Event()
        self._is_idle = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.browser_line = lab.browser_line  # type: ignore[attr-defined]

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        assert self._is_idle.wait(90), "the saboteur hangs"

    def _run(self) -> None:
        self._break_things()
        self._is_idle.set()
        # The kernel ends the processes that this thread has started when the thread ends.
        threading.Event().wait()

    def _break_things(self) -> None:
        for number, strike in enumerate(self._plan.strikes):
            if self._over.wait(max(0.0, self._began + strike.at - time.monotonic())):
                return
            self._memory.note_strike(f"{strike.kind}{strike.target} for {strike.seconds:.0f} s")
            try:
                self._strike(strike)
                self._memory.count(f"strike: {strike.kind}")
            except Exception as error:
                self._memory.find(f"strike {number} ({strike.kind}): {error!r}")

    def _strike(self, strike: Strike) -> None:
        acts: dict[str, Callable[[Strike], None]] = {
            "worker parent killed": self._kill_worker_parent,
            "worker family killed": self._kill_worker,
            "worker told to leave": self._end_worker,
            "web killed": self._kill_web,
            "web told to leave": self._end_web,
            "maker killed": self._kill_maker,
            "maker told to leave": self._end_maker,
            "clock killed": self._kill_clock,
            "redis flushed": self._flush_redis,
            "redis down": lambda _: self._lab.redis.down(),
            "redis hanging": lambda _: self._lab.redis.blackhole(),
            "postgres sessions ended": self._end_sessions,
            "postgres down": lambda _: self._lab.postgres.down(),
            "storage down": lambda _: self._lab.storage_line.down(),
            "storage resets": lambda _: self._lab.storage_line.reset(),
            "storage slow": lambda _: self._lab.storage_line.slow(0.3),
            "storage says slow down": lambda _: self._lab.storage.plan("", s3faults.SLOW_DOWN, 12),
            "storage loses answers": self._lose_answers,
            "storage lies about complete": self._lie,
            "browsers cut off from storage": lambda _: self.browser_line.down(),
        }
        acts[strike.kind](strike)
        self._over.wait(strike.seconds)
        self._mend()

    def _mend(self) -> None:
        self._lab.heal()
        self.browser_line.up()
        for name in PROCESSES:
            process = self._lab.stack.running.get(name)
            if process is not None and process.poll() is not None:
                # A platform would start it again; but only a kill may end it.
                self._memory.find(f"{name} ended by itself with {process.returncode}")
                self._lab.stack.kill(name)
                process = None
            if process is None:
                self._lab.stack.start(name)

    def _kill_worker_parent(self, strike: Strike) -> None:
        self._lab.stack.kill_parent(f"worker{strike.target}")

    def _kill_worker(self, strike: Strike) -> None:
        self._lab.stack.kill(f"worker{strike.target}")

    def _end_worker(self, strike: Strike) -> None:
        self._lab.stack.shut_down(f"worker{strike.target}")

    def _kill_web(self, strike: Strike) -> None:
        self._lab.stack.kill(f"web{strike.target}")

    def _end_web(self, strike: Strike) -> None:
        self._lab.stack.shut_down(f"web{strike.target}")

    def _kill_maker(self, strike: Strike) -> None:
        self._lab.stack.kill("maker")

    def _end_maker(self, strike: Strike) -> None:
        self._lab.stack.shut_down("maker")

    def _kill_clock(self, strike: Strike) -> None:
        self._lab.stack.kill("clock")

    def _flush_redis(self, strike: Strike) -> None:
        redis.Redis.from_url(self._lab.environ["REDIS_URL"]).flushall()

    def _end_sessions(self, strike: Strike) -> None:
        ask(
            self._lab,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )

    def _lose_answers(self, strike: Strike) -> None:
        for operation in ("CreateMultipartUpload", "CompleteMultipartUpload", "DeleteObjects"):
            self._lab.storage.plan(operation, s3faults.lose_answer, 2)

    def _lie(self, strike: Strike) -> None:
        self._lab.storage.plan("CompleteMultipartUpload", s3faults.OK_WITH_ERROR, 4)
