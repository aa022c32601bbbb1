"""The link as a picture: what it says, and that it obeys the page's policy."""

import re
from xml.etree import ElementTree

import pytest
import segno

from app.qr import qr_svg
from tests.factories import Sender


def modules(svg: str) -> list[list[int]]:
    """The dark modules that the picture draws, its edge cut off."""
    size = int(re.search(r'viewBox="0 0 (\d+)', svg)[1])
    drawn = [[0] * size for _ in range(size)]
    dark = ElementTree.fromstring(svg)[1].attrib["d"]
    for x, y, width, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", dark):
        assert width == back
        drawn[int(y)][int(x) : int(x) + int(width)] = [1] * int(width)
    edge = [drawn[n] for n in (0, 1, 2, 3, -4, -3, -2, -1)]
    assert not any(any(row) for row in edge)
    return [row[4:-4] for row in drawn[4:-4]]


@pytest.mark.parametrize(
    "link", ["http://localhost/d/" + "x" * 32, "https://ü.example/d/" + "-" * 64]
)
def test_every_module_is_drawn_where_it_belongs(link: str) -> None:
    expected = segno.make(link, error="m", micro=False).matrix
    assert modules(qr_svg(link)) == [list(row) for row in expected]


def test_the_link_has_a_picture_without_style_or_script(sender: Sender) -> None:
    sent = sender.create()  # it is there as soon as the link is
    answer = sender.client.get(f"/d/{sent.slug}.svg")
    assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
    assert answer.text == qr_svg(f"http://localhost/d/{sent.slug}")
    assert not re.search(r"style|script|\son\w+=|href", answer.text)
    assert 'fill="#fff"' in answer.text  # readable on a dark page
    assert len(answer.data) < 12_000


def test_the_page_shows_it_on_request(sender: Sender) -> None:
    sent = sender.ready(max_downloads=1)
    page = sender.client.get(f"/d/{sent.slug}").text
    picture = re.search(r'<img class="qr-code"[^>]+>', page)[0]
    assert f'src="/d/{sent.slug}.svg"' in picture
    assert 'loading="lazy"' in picture
    assert re.search(r'alt="[^"]+"', picture)
