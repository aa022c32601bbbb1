"""Checks of the processes of the Procfile: whether each runs, and whether its work gets done."""

from app import jobs
from app.extensions import queue
from app.leases import Waiting
from app.services import archives, blocklist, heartbeats, upkeep
from app.services.doctor.findings import Finding, failed, ok
from app.words import counted

# A sweep is late when it has missed this many turns, and this many seconds more.
TURNS_MISSED = 3
LATE_SECONDS = 60
# A maker takes a zip within seconds, and the next after a minute.
NO_MAKER_SECONDS = 300
# `worker.py sqs` finishes a turn every few seconds, and after minutes at worst.
LISTENER = "take_messages"
NO_LISTENER_SECONDS = 300
# A worker is heard of every few seconds, also during a job.
SILENT_SECONDS = 60


def is_late(run: heartbeats.Run) -> bool:
    """Whether a sweep has missed too many turns: no worker, no clock, or a bug."""
    return run.age_seconds > TURNS_MISSED * run.interval_seconds + LATE_SECONDS


def has_no_listener() -> bool:
    """Whether no worker has polled the event queue for long."""
    return heartbeats.age_of(LISTENER) > NO_LISTENER_SECONDS


def has_no_maker(waiting: Waiting) -> bool:
    """Whether zips (or files to be read) wait long while none is being made: no maker runs."""
    return (waiting.oldest_seconds or 0) > NO_MAKER_SECONDS and not waiting.held_count


def clock() -> Finding:
    """Whether a clock queues the scheduled jobs."""
    # Not one of the others: a sweep that is overdue is queued by another sweep, too.
    often = next(one for one in jobs.SCHEDULE if one[1] is jobs.REQUEUE_STUCK)
    if queue.was_queued_by_clock(often[1], often[0]):
        return ok(f"A clock has queued jobs within the last {2 * often[0]} s.")
    return failed(
        "No clock runs: nothing expires, is reminded of, or tried again. Start `python worker.py "
        "clock`."
    )


def worker() -> Finding:
    """Whether jobs for which people wait are taken."""
    return _taken(
        "worker",
        jobs.QUICK_QUEUES,
        "what was sent is not checked, no mail is sent, and nothing is removed",
    )


def maker() -> Finding:
    """Whether jobs that may take long are taken."""
    return _taken(
        "maker",
        jobs.SLOW_QUEUES,
        "no zip, preview or message to a webhook is made, and what may be on the block list waits",
    )


def long_work() -> Finding:
    """Whether zips, and files to be read for the block list, are taken within minutes."""
    waits = {"Zips": archives.waiting(), "Files to be read": blocklist.waiting()}
    late = [
        f"{what} have waited for {_ago(one.oldest_seconds or 0)}, and none is being made"
        for what, one in waits.items()
        if has_no_maker(one)
    ]
    if late:
        return failed(f"{'; '.join(late)}. Start a maker, or look into its log if one runs.")
    return ok("No zip waits for long.")


def listener() -> Finding:
    """Whether the queue of events is read."""
    age = heartbeats.age_of(LISTENER)
    if has_no_listener():
        since = "" if age == float("inf") else f" for {_ago(age)}"
        return failed(
            f"Nobody has read the queue of SQS_QUEUE_URL{since}: start `python worker.py sqs`."
        )
    return ok(f"The queue of SQS_QUEUE_URL was read {_ago(age)} ago.")


def sweeps() -> Finding:
    """Whether every scheduled job has run when it was due."""
    runs = heartbeats.runs()
    late = [one for one in runs if is_late(one)]
    if late:
        told = "; ".join(_late(one) for one in late)
        return failed(
            f"Late: {told}. If clock, worker and maker run, the log of the workers says why."
        )
    latest = min(one.age_seconds for one in runs)
    return ok(f"All {len(runs)} scheduled jobs run when they are due; the last {_ago(latest)} ago.")


def lost_files() -> Finding:
    """Whether all complete files were in the bucket when it was last compared with the rows."""
    count = heartbeats.count_of(upkeep.LOST_OBJECTS)
    if count:
        return failed(
            f"{counted(count, 'file that had arrived is', 'files that had arrived are')} no longer "
            "in the bucket. Beeline did not remove them: see who else can, and whether the "
            'database is newer than the bucket ("Backup and restore" in docs/operate.md). The log '
            "of the workers names the first."
        )
    if count is None:
        return ok("The bucket has not been compared with the database yet.")
    return ok("Every file that had arrived was in the bucket when it was last compared.")


def _taken(name: str, queues: list[str], lost: str) -> Finding:
    """Whether processes take jobs from all of these queues."""
    known = [one for one in queue.processes() if one.age_seconds < SILENT_SECONDS]
    taking = [one for one in known if one.queues & set(queues)]
    missing = [one for one in queues if not any(one in process.queues for process in taking)]
    start = f"`python worker.py {' '.join(missing)}`"
    if not taking:
        return failed(f"No {name} runs: {lost}. Start {start}.")
    if missing:
        return failed(
            f"Nobody takes jobs from {', '.join(missing)}. Start {start}, or name these queues "
            f"where the {name} is started."
        )
    latest = min(one.age_seconds for one in taking)
    return ok(
        f"{counted(len(taking), 'process takes', 'processes take')} these jobs, last heard of "
        f"{_ago(latest)} ago."
    )


def _late(run: heartbeats.Run) -> str:
    told = f"{run.name}, due every {_ago(run.interval_seconds)}, "
    told += "has never run" if run.at is None else f"ran {_ago(run.age_seconds)} ago"
    failures = counted(run.failure_count, "failure", "failures")
    return f"{told} ({failures} since)" if run.failure_count else told


def _ago(seconds: float) -> str:
    """A duration in its largest unit: 5 s, 3 min, 2 h, 4 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"
