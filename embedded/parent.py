"""The process that started us, for a runner that is to end with it.

`make` hands SIGTERM down and leaves SIGINT to the terminal, which sends it to all at once. A
SIGINT that was sent to `make` alone therefore never comes here, and `make` would wait for us for
ever; a killed `make` says nothing at all.
"""

import os
import re
import signal
from pathlib import Path


class Parent:
    """Watches the process that is our parent at this moment."""

    def __init__(self) -> None:
        """Remember who it is."""
        self._pid = os.getppid()
        self._catches_interrupts = self._catches(signal.SIGINT)

    def wants_the_end(self) -> bool:
        """Whether it has gone, or was interrupted and only waits for us."""
        if os.getppid() != self._pid:
            return True
        # `make` gives a signal its usual meaning back as the first thing it does about it.
        return self._catches_interrupts and not self._catches(signal.SIGINT)

    def _catches(self, signum: int) -> bool:
        """Whether it handles the signal itself; False where that cannot be seen."""
        try:
            status = Path("/proc", str(self._pid), "status").read_text()
        except OSError:
            return False
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, flags=re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (signum - 1) & 1)
