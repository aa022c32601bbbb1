"""The process that started us, for a runner that is to end with it.

`make` passes SIGTERM on but leaves SIGINT to the terminal, which sends it to the whole process
group. So a SIGINT sent to `make` alone never reaches us, and `make` would wait for us forever; a
killed `make` sends nothing at all.
"""

import os
import re
import signal
from pathlib import Path


class Parent:
    """Watches the process that is our parent when this is created."""

    def __init__(self) -> None:
        """Remember its pid and whether it handles SIGINT."""
        self._pid = os.getppid()
        self._catches_interrupts = self._catches(signal.SIGINT)

    def wants_the_end(self) -> bool:
        """Whether it is gone, or was interrupted and is only waiting for us to end."""
        if os.getppid() != self._pid:
            return True
        # On a signal, `make` first restores that signal's default action.
        return self._catches_interrupts and not self._catches(signal.SIGINT)

    def _catches(self, signum: int) -> bool:
        """Whether it handles the signal itself; False where that cannot be determined."""
        try:
            status = Path("/proc", str(self._pid), "status").read_text()
        except OSError:
            return False
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, flags=re.MULTILINE)
        return caught is not None and bool(int(caught[1], 16) >> (signum - 1) & 1)
