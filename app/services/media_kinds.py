"""What kind of media a file may be, by its name first and then by its first bytes. No I/O here.

The name only says what is worth a look; what is shown or played depends on the bytes.
"""

from app.config import KIB, MIB, PREVIEW_TEXT_SIZE
from app.models import Sight

# How much is read of a text; and of audio and video, to detect their media type.
HEAD_SIZE = 64 * KIB
# An image is read as a whole, so its size is limited; of others, only what is needed.
MOST_IMAGE_SIZE = 30 * MIB

# SVG and HTML are only shown as the text that they are.
_BY_ENDING = {
    Sight.IMAGE: "jpg jpeg jpe jfif png webp gif heic heif hif avif",
    Sight.VIDEO: "mp4 m4v mov webm mkv avi",
    Sight.AUDIO: "mp3 m4a aac ogg oga opus wav flac",
    Sight.PDF: "pdf",
    Sight.TEXT: (
        "txt text md markdown rst csv tsv log json jsonl xml yaml yml toml ini cfg conf srt vtt "
        "tex bib sql sh py js mjs ts css html htm svg c h cpp hpp java kt go rs rb php pl lua swift"
    ),
}
_SIGHTS = {ending: sight for sight, endings in _BY_ENDING.items() for ending in endings.split()}
_BY_TYPE = {"image": Sight.IMAGE, "video": Sight.VIDEO, "audio": Sight.AUDIO, "text": Sight.TEXT}


def expected(path: str, content_type: str, size: int) -> Sight | None:
    """The kind of media that this name and type promise; None if there would be nothing to show."""
    kind = content_type.partition(";")[0].strip().lower()
    ending = path.rpartition("/")[2].rpartition(".")[2].lower()
    guessed = Sight.PDF if kind == "application/pdf" else _BY_TYPE.get(kind.partition("/")[0])
    sight = _SIGHTS.get(ending, guessed)
    if size == 0 or (sight is Sight.IMAGE and size > MOST_IMAGE_SIZE):
        return None
    return sight


def media_type(sight: Sight, head: bytes) -> str | None:
    """The media type to play a file with this beginning as; None if it should not be played."""
    if sight is Sight.VIDEO:
        return _video_type(head)
    return _audio_type(head) if sight is Sight.AUDIO else None


def _video_type(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return "video/mp4"
    is_webm = head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head[:64]
    return "video/webm" if is_webm else None


def _audio_type(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return "audio/mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio/wav"
    if head[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return "audio/aac"
    known = {b"ID3": "audio/mpeg", b"OggS": "audio/ogg", b"fLaC": "audio/flac"}
    for start, kind in known.items():
        if head.startswith(start):
            return kind
    is_frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2
    return "audio/mpeg" if is_frame else None


def excerpt(head: bytes) -> str | None:
    """The beginning of a text, at most PREVIEW_TEXT_SIZE bytes as UTF-8; None if it is not text."""
    words = _decoded(head)
    if words is None or not words.strip():
        return None
    if any(char < " " and char not in "\t\n\r\f\x1b" for char in words):
        return None
    cut = words.encode()[:PREVIEW_TEXT_SIZE].decode(errors="ignore")
    # Cut at the end of a line, if there is one.
    return cut if len(cut) == len(words) else (cut.rpartition("\n")[0] or cut)


def may_be_whole(size: int) -> bool:
    """Whether the excerpt of a text of `size` bytes may be all of it.

    UTF-16 has at most two bytes for each byte of UTF-8, and a byte order mark.
    """
    return size <= 2 * PREVIEW_TEXT_SIZE + 2


def is_cut(text: str, size: int) -> bool:
    """Whether a file of `size` bytes holds more than this excerpt, whatever its encoding."""
    encoded = (text.encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16"))
    # In cp1252 each character is one byte.
    return size not in {len(text), *map(len, encoded)}


def _decoded(head: bytes) -> str | None:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            return head[2:].decode(encoding, errors="ignore")
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The last character may have been cut in two.
        if error.reason == "unexpected end of data" and error.start > 0:
            return head[: error.start].decode("utf-8-sig")
    # Written by older Windows programs; binary files have bytes that are undefined in it.
    try:
        return head.decode("cp1252")
    except UnicodeDecodeError:
        return None
