"""An SMTP server that accepts and discards every mail, run as a process; prints its port."""

import asyncio
from typing import Any

from aiosmtpd.smtp import SMTP


class _Forgets:
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        return "250 taken"


async def _serve() -> None:
    made = await asyncio.get_running_loop().create_server(
        lambda: SMTP(_Forgets(), enable_SMTPUTF8=True), "127.0.0.1", 0
    )
    print(made.sockets[0].getsockname()[1], flush=True)
    await made.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
