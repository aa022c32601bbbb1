"""S23: strangers' files are decoded in a process that may die of it, and nothing else does."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from app.config import MIB
from app.gateways import darkroom, darkroom_child
from app.gateways.darkroom import Developed, Interrupted
from tests import pictures
from tests.pictures import drawn, encoded, opened


def develop(sight: str, body: bytes, **given: object) -> Developed | None:
    options = {"memory_in_mib": 1024, "is_over": lambda: False} | given
    return darkroom.develop(sight, len(body), reader(body), **options)  # type: ignore[arg-type]


def reader(body: bytes, asked: list[int] | None = None) -> Callable[[int, int], bytes]:
    def read(start: int, size: int) -> bytes:
        if asked is not None:
            asked.append(size)
        return body[start : start + size]

    return read


def is_near(found: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    pixel = found.convert("RGB").getpixel(at)
    return all(abs(a - b) < 24 for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize(
    ("sight", "body", "size"),
    [
        ("image", encoded(drawn(), "PNG"), (640, 480)),
        ("image", encoded(drawn(4000, 3000), "JPEG"), (1600, 1200)),
        ("image", encoded(drawn(), "WEBP"), (640, 480)),
        ("image", encoded(drawn(), "GIF"), (640, 480)),
        ("image", encoded(drawn().convert("CMYK"), "JPEG"), (640, 480)),
        ("image", encoded(drawn().convert("L"), "PNG"), (640, 480)),
        ("image", encoded(drawn().convert("P"), "PNG"), (640, 480)),
        ("image", encoded(Image.new("1", (3, 5)), "PNG"), (3, 5)),
        ("image", encoded(Image.new("I;16", (30, 50), 40_000), "PNG"), (30, 50)),
        ("image", encoded(drawn(20_000, 2), "PNG"), (1600, 1)),
        ("image", encoded(drawn(), "AVIF"), (640, 480)),
        ("image", pictures.heic(), (640, 480)),
        ("pdf", pictures.pdf(), (1132, 1600)),
        ("video", pictures.video(), (320, 240)),
        ("video", pictures.video("webm", "libvpx"), (320, 240)),
        ("video", pictures.video("avi", "mpeg4"), (320, 240)),
        ("video", pictures.video("matroska"), (320, 240)),
    ],
)
def test_a_picture_of_every_kind(sight: str, body: bytes, size: tuple[int, int]) -> None:
    made = develop(sight, body)
    assert made
    assert (made.width, made.height) == size == opened(made.picture).size
    assert opened(made.thumbnail).size == (96, 96)


def test_it_is_upright_and_tells_nothing_of_its_camera() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SECRET CAMERA"
    body = encoded(drawn(), "JPEG", exif=exif)
    assert b"SECRET CAMERA" in body
    made = develop("image", body)
    assert made
    picture = opened(made.picture)
    assert picture.size == (480, 640)
    # What was below is now on the left.
    assert is_near(picture, (30, 100), (0x1C, 0x3D, 0x5A))
    assert {"exif", "icc_profile", "xmp"} & set(picture.info) == set()
    assert b"SECRET" not in made.picture + made.thumbnail


def test_what_is_transparent_is_shown_on_white() -> None:
    made = develop("image", encoded(Image.new("RGBA", (50, 50)), "PNG"))
    assert made
    assert is_near(opened(made.picture), (25, 25), (255, 255, 255))


KEYED = {
    "RGB": (Image.new("RGB", (50, 50)), (0, 0, 0)),
    "grey": (Image.new("L", (50, 50)), 0),
    "16 bits of grey": (Image.new("I;16", (50, 50), 40_000), 40_000),
    "palette": (Image.new("P", (50, 50)), 0),
}


@pytest.mark.parametrize("kind", KEYED)
def test_a_colour_that_stands_for_transparency_is_shown_on_white(kind: str) -> None:
    picture, key = KEYED[kind]
    made = develop("image", encoded(picture, "PNG", transparency=key))
    assert made
    assert is_near(opened(made.picture), (25, 25), (255, 255, 255))


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (50_000, 2)])
def test_a_picture_however_thin_has_a_thumbnail(size: tuple[int, int]) -> None:
    for small_as, kind in (("jpeg", "JPEG"), ("webp", "WEBP")):
        made = develop("image", encoded(drawn(*size), "PNG"), small_as=small_as)
        assert made
        thumbnail = Image.open(io.BytesIO(made.thumbnail), formats=[kind])
        assert max(thumbnail.size) <= 400


def test_of_sixteen_bits_the_upper_ones_are_seen() -> None:
    made = develop("image", encoded(Image.new("I;16", (30, 50), 40_000), "PNG"))
    assert made
    assert is_near(opened(made.picture), (5, 5), (156, 156, 156))


def test_a_film_that_begins_in_the_dark_shows_its_first_light() -> None:
    made = develop("video", pictures.video(dark=6))
    assert made
    assert is_near(opened(made.picture), (5, 5), (0xE9, 0xE2, 0xD0))


def test_of_a_long_film_only_what_is_needed_is_read() -> None:
    # An index at the end, as most cameras write it, and nothing of interest before that.
    film = pictures.video(seconds=2)
    asked: list[int] = []
    padded = len(film) + 400 * MIB

    def read(start: int, size: int) -> bytes:
        asked.append(size)
        piece = film[start : start + size]
        return piece + b"\0" * (min(size, padded - start) - len(piece))

    made = darkroom.develop("video", padded, read, memory_in_mib=1024, is_over=lambda: False)
    assert made
    assert sum(asked) < 8 * MIB


LYING = {
    "a bomb": pictures.bomb(),
    "one pixel that says it is many": pictures.png_that_says(
        100_000, 100_000, b"x\x9c\3\0\0\0\0\1"
    ),
    "just too many": encoded(Image.new("1", (7072, 7072)), "PNG"),
    "a JPEG that is cut off": encoded(drawn(2000, 1500), "JPEG")[:20_000],
    "noise": os.urandom(50_000),
    "nothing": b"",
    "a drawing that may hold a script": b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
    "a page": b"<!doctype html><script>alert(1)</script>",
    "a format that nobody sends": encoded(drawn(), "TIFF"),
}


@pytest.mark.parametrize("what", LYING)
@pytest.mark.parametrize("sight", ["image", "pdf", "video"])
def test_s23_what_is_none_or_too_much_makes_no_picture(sight: str, what: str) -> None:
    began = time.monotonic()
    assert develop(sight, LYING[what]) is None
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
)
def test_s23_a_film_names_no_other_file(playlist: bytes) -> None:
    assert develop("video", playlist) is None


def test_s23_ffmpeg_is_given_one_format_and_no_protocol() -> None:
    """Left to guess the format, FFmpeg also reads playlists, which can name other files."""
    asked = []

    def open_film(source: object, **options: object) -> None:
        asked.append(options)
        raise InterruptedError

    film = SimpleNamespace(open=open_film)
    for body in (
        pictures.video(),
        pictures.video("webm", "libvpx"),
        pictures.video("avi", "mpeg4"),
    ):
        with pytest.raises(InterruptedError):
            darkroom_child.video(io.BytesIO(body), {"av": film})  # type: ignore[arg-type]
    assert asked == [
        {"format": name, "options": {"protocol_whitelist": ""}}
        for name in ("mov", "matroska", "avi")
    ]


HOSTILE = """
import importlib.util, os, socket, sys, time
spec = importlib.util.spec_from_file_location("child", {child!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
def image(source, known):
{body}
child.KINDS["image"] = (image, 1 << 20)
child.main()
"""
# Each either cannot be done, or is the end of the child.
DEEDS = {
    "ends": "os._exit(0)",
    "crashes": "os.abort()",
    "wants all memory": "return bytearray(3 << 30)",
    "opens a file": "open('/etc/passwd').read(); return DONE",
    "makes a file": "open('/tmp/of-the-child', 'w').write('x'); return DONE",
    "opens a socket": "socket.socket(); return DONE",
    "starts a program": "os.system('true') == 0 or 1 / 0; import subprocess; subprocess.run(['true'], check=True); return DONE",
    "reads the environment": "return DONE if set(os.environ) - {'LD_LIBRARY_PATH', 'LC_CTYPE'} else None",
    "asks for too much": "source._ask(0, 1 << 30)",
    "asks for ever": "while True: source._ask(0, 1)",
    "says something else": "source._line.sendall(b'?' * 100_000); time.sleep(60)",
    "says too much": "source._line.sendall(b'M' + b'\\xff' * 100_000); time.sleep(60)",
    "gives another picture": "source._line.sendall(b'M' + child.packed(b'{\"width\": 1, \"height\": 1}') + 2 * child.packed(b'<html>')); time.sleep(60)",
    "gives no size": "source._line.sendall(b'M' + child.packed(b'[]') + 2 * child.packed(b'RIFF....WEBP')); time.sleep(60)",
}


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    def take_over(deed: str) -> None:
        drawn = "known['PIL.Image'].new('RGB', (5, 5))"
        body = "    " + deed.replace("DONE", drawn)
        script = tmp_path / "child.py"
        script.write_text(HOSTILE.format(child=str(darkroom.CHILD), body=body))
        monkeypatch.setattr(darkroom, "CHILD", script)
        monkeypatch.setenv("SECRET_KEY", "not for a child")

    return take_over


def test_the_hostile_child_could_answer(hostile: Callable[[str], None]) -> None:
    """Else the tests below would show nothing."""
    hostile("return DONE")
    assert develop("image", b"1")


@pytest.mark.parametrize("what", DEEDS)
def test_s23_whatever_a_child_does_there_is_only_no_picture(
    hostile: Callable[[str], None], what: str
) -> None:
    hostile(DEEDS[what])
    began = time.monotonic()
    assert develop("image", b"1") is None
    assert time.monotonic() - began < 10
    assert not Path("/tmp/of-the-child").exists()


def test_s23_a_child_has_these_limits_of_its_own(hostile: Callable[[str], None]) -> None:
    """They hold even if its parent is gone and cannot end it."""
    limits = {"CPU": darkroom_child.CPU_SECONDS, "FSIZE": 0, "CORE": 0, "NOFILE": 0}
    hostile(
        f"limits = {limits!r}; "
        "found = [child.resource.getrlimit(getattr(child.resource, f'RLIMIT_{name}')) for name in limits]; "
        "return DONE if found == [(most, most) for most in limits.values()] else None"
    )
    assert develop("image", b"1")


@pytest.mark.parametrize("deed", ["while True: pass", "time.sleep(60)"])
def test_s23_a_child_that_hangs_is_ended(
    hostile: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    hostile(deed)
    monkeypatch.setattr(darkroom, "WORK_SECONDS", 1.5)
    ended: list[int] = []
    end = darkroom._end
    monkeypatch.setattr(darkroom, "_end", lambda child: (end(child), ended.append(child.pid)))
    began = time.monotonic()
    assert develop("image", b"1") is None
    assert time.monotonic() - began < 6
    with pytest.raises(ProcessLookupError):
        os.kill(ended[0], 0)


def test_a_worker_that_is_to_stop_does_not_wait(hostile: Callable[[str], None]) -> None:
    hostile("time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(Interrupted):
        develop("image", b"1", is_over=lambda: True)
    assert time.monotonic() - began < 5


def test_storage_that_does_not_answer_is_told_and_the_child_is_gone() -> None:
    def read(start: int, size: int) -> bytes:
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        darkroom.develop("image", 100, read, memory_in_mib=1024, is_over=lambda: False)


@pytest.mark.parametrize(
    ("sight", "library", "body"),
    [
        ("image", "PIL.Image", encoded(drawn(), "PNG")),
        ("image", "pillow_heif", pictures.heic()),
        ("pdf", "pypdfium2", pictures.pdf()),
        ("video", "av", pictures.video()),
    ],
)
def test_a_library_that_is_not_there_means_no_preview(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sight: str, library: str, body: bytes
) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        HOSTILE.format(child=str(darkroom.CHILD), body="    pass").replace(
            'child.KINDS["image"] = (image, 1 << 20)', f"sys.modules[{library!r}] = None"
        )
    )
    monkeypatch.setattr(darkroom, "CHILD", script)
    assert develop(sight, body) is None
    if library == "pillow_heif":
        assert develop("image", encoded(drawn(), "PNG"))
