"""Makes one zip as a `maker` does, in a process of its own, and prints what it took as JSON.

Reads its members as JSON from standard input: (key, ETag, size, CRC32) for each file.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from app import create_app, zip_parts
from app.extensions import storage
from app.gateways.s3_answers import Source
from app.services.composing import Composer
from app.services.planning import plan_whole
from app.zip_layout import Layout, Member

THEN = datetime(2024, 1, 1, tzinfo=UTC)


def main() -> None:
    """Do all that a maker does except for the database."""
    create_app()
    plan = json.load(sys.stdin)
    base, began, own = _peak(), time.monotonic(), time.process_time()
    members = [
        Member(f"{n}.bin", size, THEN, bytes.fromhex(crc32))
        for n, (_, _, size, crc32) in enumerate(plan)
    ]
    layout = Layout(members)
    upload = plan_whole(layout.size)
    s3_id = storage.begin_upload(upload.key, upload.token)
    sources = [Source(key, etag) for key, etag, _, _ in plan]
    with Composer(layout, sources, lambda: False) as composer:
        assert sum(composer.make_parts(upload.key, s3_id, zip_parts.cut(layout))) == layout.size
    storage.finish_upload(upload.key, s3_id, storage.list_parts(upload.key, s3_id))
    seconds, own = time.monotonic() - began, time.process_time() - own
    storage.delete([upload.key])
    told = {"seconds": seconds, "own": own, "memory": _peak(), "base": base, "size": layout.size}
    print(json.dumps(told))


def _peak() -> int:
    """The peak resident memory in bytes; getrusage() may report the parent's instead."""
    told = Path("/proc/self/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
