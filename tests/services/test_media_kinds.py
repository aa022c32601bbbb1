"""What a file may be, by its name and by its first bytes."""

import os

import pytest

from app.config import MIB, PREVIEW_TEXT_SIZE
from app.models import Sight
from app.services import media_kinds
from tests import pictures


@pytest.mark.parametrize(
    ("path", "content_type", "size", "sight"),
    [
        ("a/b/Photo.JPG", "", 10, Sight.IMAGE),
        ("photo.heic", "application/octet-stream", 10, Sight.IMAGE),
        ("film.mov", "", 10**12, Sight.VIDEO),
        ("song.mp3", "", 10, Sight.AUDIO),
        ("deck.pdf", "", 10, Sight.PDF),
        ("notes.txt", "image/png", 10, Sight.TEXT),
        ("logo.svg", "image/svg+xml", 10, Sight.TEXT),
        ("page.html", "text/html", 10, Sight.TEXT),
        ("README", "text/plain; charset=utf-8", 10, Sight.TEXT),
        ("scan", "application/pdf", 10, Sight.PDF),
        ("shot", "image/png", 10, Sight.IMAGE),
        ("photo.jpg", "", 31 * MIB, None),
        ("empty.txt", "", 0, None),
        ("a.zip", "application/zip", 10, None),
        ("jpg", "", 10, Sight.IMAGE),
        ("folder.jpg/raw.bin", "", 10, None),
        ("", "", 10, None),
        ("odd", "////;;", 10, None),
    ],
)
def test_what_a_name_promises(path: str, content_type: str, size: int, sight: Sight | None) -> None:
    assert media_kinds.expected(path, content_type, size) is sight


@pytest.mark.parametrize(
    ("sight", "head", "kind"),
    [
        (Sight.VIDEO, pictures.video(), "video/mp4"),
        (Sight.VIDEO, pictures.video("webm", "libvpx"), "video/webm"),
        (Sight.VIDEO, pictures.video("matroska"), None),
        (Sight.VIDEO, pictures.video("avi", "mpeg4"), None),
        (Sight.VIDEO, b"<html>", None),
        (Sight.AUDIO, pictures.wav(), "audio/wav"),
        (Sight.AUDIO, b"ID3\4", "audio/mpeg"),
        (Sight.AUDIO, b"\xff\xfb\x90\x64", "audio/mpeg"),
        (Sight.AUDIO, b"\xff\xf1\x50\x80", "audio/aac"),
        (Sight.AUDIO, b"OggS\0", "audio/ogg"),
        (Sight.AUDIO, b"fLaC\0", "audio/flac"),
        (Sight.AUDIO, b"\0\0\0\x20ftypM4A ", "audio/mp4"),
        (Sight.AUDIO, b"\xff\xff", None),
        (Sight.AUDIO, b"", None),
        (Sight.AUDIO, b"<script>", None),
        (Sight.IMAGE, pictures.video(), None),
    ],
)
def test_what_a_browser_may_play_it_as(sight: Sight, head: bytes, kind: str | None) -> None:
    assert media_kinds.media_type(sight, head[: media_kinds.HEAD_SIZE]) == kind


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (b"hello\n", "hello\n"),
        ("Grüße 🐝".encode(), "Grüße 🐝"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Grüße".encode("cp1252"), "Grüße"),
        ("cut 🐝".encode()[:-1], "cut "),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        (b"a\0b", None),
        (b"\x7fELF\x02\x01", None),
        (b"", None),
        (b" \n ", None),
        (pictures.encoded(pictures.drawn(), "PNG"), None),
    ],
)
def test_how_a_text_begins(head: bytes, text: str | None) -> None:
    assert media_kinds.excerpt(head) == text


def test_of_a_long_text_whole_lines_are_kept() -> None:
    long = "".join(f"line {number} ü\n" for number in range(5000))
    text = media_kinds.excerpt(long.encode()[: media_kinds.HEAD_SIZE])
    assert text
    assert PREVIEW_TEXT_SIZE - 20 < len(text.encode()) <= PREVIEW_TEXT_SIZE
    assert text.endswith("ü")
    one_line = media_kinds.excerpt(("ü" * 50_000).encode())
    assert one_line == "ü" * (PREVIEW_TEXT_SIZE // 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("line", ["a line\r\n", "Größe;Straße\n", "ü"])
def test_it_is_known_whether_an_excerpt_is_all_of_it(encoding: str, line: str) -> None:
    for size, is_cut in ((PREVIEW_TEXT_SIZE * 3 // 4, False), (PREVIEW_TEXT_SIZE * 3 // 2, True)):
        body = (line * (size // len(line.encode()))).encode(encoding)
        text = media_kinds.excerpt(body)
        assert text
        assert media_kinds.is_cut(text, len(body)) is is_cut
        assert is_cut or media_kinds.may_be_whole(len(body))


def test_noise_is_never_a_text_that_postgresql_refuses() -> None:
    for _ in range(200):
        text = media_kinds.excerpt(os.urandom(100))
        assert text is None or "\0" not in text
