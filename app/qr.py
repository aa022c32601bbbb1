"""A link as a QR code: plain SVG that needs neither style nor script."""

from itertools import groupby

import segno

# The quiet zone that the standard requires, in modules.
_EDGE = 4


def qr_svg(link: str) -> str:
    """Draw a link dark on white whatever the theme, because many scanners read nothing else."""
    rows = segno.make(link, error="m", micro=False).matrix
    size = len(rows) + 2 * _EDGE
    drawn = "".join(
        f"M{x + _EDGE} {y + _EDGE}h{width}v1h-{width}z"
        for y, row in enumerate(rows)
        for x, width in _dark_runs(row)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}"'
        f' shape-rendering="crispEdges"><path fill="#fff" d="M0 0h{size}v{size}H0z"/>'
        f'<path fill="#1c1b18" d="{drawn}"/></svg>'
    )


def _dark_runs(row: bytearray) -> list[tuple[int, int]]:
    """The start and length of each run of dark modules."""
    runs, at = [], 0
    for is_dark, modules in groupby(row):
        width = len(list(modules))
        if is_dark:
            runs.append((at, width))
        at += width
    return runs
