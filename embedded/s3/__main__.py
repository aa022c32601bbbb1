"""Starts the endpoint: `python -m embedded.s3 --help`."""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from embedded.s3.server import Server
from embedded.s3.sigv4 import Credentials
from embedded.s3.store import Store


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="s3: %(levelname)s %(message)s")
    os.umask(0o077)
    credentials = Credentials(options.access_key, options.secret_key)
    try:
        store = Store(options.data, sync=not options.no_sync)
        address, domains = (options.host, options.port), ["localhost", *options.domain]
        server = Server(address, store, credentials, domains, checksums=not options.no_checksums)
    except OSError as error:
        sys.exit(f"s3: cannot start: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    host, port = server.socket.getsockname()[:2]
    print(f"S3 endpoint is ready: http://{host}:{port}", flush=True)
    stop.wait()
    server.stop()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded.s3", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000, help="0 chooses a free one")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--access-key", default=os.environ.get("S3_ACCESS_KEY_ID"))
    parser.add_argument("--secret-key", default=os.environ.get("S3_SECRET_ACCESS_KEY"))
    parser.add_argument("--domain", action="append", default=[], help="has buckets as subdomains")
    parser.add_argument("--no-sync", action="store_true", help="for tests: do not wait for disk")
    parser.add_argument(
        "--no-checksums", action="store_true", help="for tests: as a store that knows none"
    )
    options = parser.parse_args()
    if not options.access_key or not options.secret_key:
        sys.exit("set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or --access-key and --secret-key")
    return options


if __name__ == "__main__":
    main()
