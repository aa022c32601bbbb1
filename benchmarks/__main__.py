"""`python -m benchmarks [NAME...]`: the named benchmarks, or all of them."""

import importlib
import signal
import sys
import time

from benchmarks.turns import say

ALL = {
    "presign": "signing addresses against boto3 and against CPython's floor",
    "weight": "what the pages weigh",
    "requests": "control requests for 10 GiB",
    "memory": "the tab's memory for 512 MiB and 4 GiB",
    "zip": "one zip inside the bucket: bytes through the maker, and many small files",
    "mail": "mail for 1,000 recipients in one job, and in a job for each",
    "upkeep": "a million transfers that expire at once, and objects that are deleted",
    "companion": "creating and signing by one web process, against Uppy Companion",
    "poll": "polls of the recipient's page that nothing has changed for",
    "upload": "uploads against curl, s3transfer and Uppy, on loopback and on a paced line",
}
# Only run by name: they help to choose how uploads are planned.
FURTHER = {"parts": "part sizes, by lanes without an uploader and by the page"}


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns 1 if one of them failed, 2 for an unknown name."""
    known = ALL | FURTHER
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    # On SIGTERM, unwind: child processes are stopped and temporary files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = []
    for name in names or ALL:
        say(f"== {name}: {known[name]}")
        began = time.monotonic()
        try:
            importlib.import_module(f"benchmarks.{name}").run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            say(f"   {name} failed: {type(error).__name__}: {error}")
            failed.append(name)
        say(f"   took {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
