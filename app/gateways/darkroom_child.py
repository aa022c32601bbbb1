"""The darkroom itself: renders the pictures of one file, in a process that may die of it.

Started by darkroom.py as a script, so it imports none of our modules. Before it reads a single byte
it limits its own memory and CPU time, and once the libraries are loaded it can open no further file
or socket. Its messages on its one socket:

    R <offset> <length>      send these bytes of the file; answered with <length> <bytes>
    M <json> <small> <large> width and height of the large picture, the small one, the large one
    N <words>                there is no picture, and why

A library that is not installed is also answered with N.
"""

import importlib
import io
import json
import resource
import signal
import socket
import struct
import sys
from collections import OrderedDict
from typing import Any

KIB, MIB = 1024, 1024**2
MOST_PIXELS = 50_000_000
THUMBNAIL = (96, 96)
# The small picture as a JPEG: not cropped, for assets, whose thumbnails are stored as JPEG.
JPEG_THUMBNAIL = (400, 400)
PICTURE = (1600, 1600)
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "HEIF"]
# (offset, magic bytes, demuxer) of what FFmpeg may read: left to probe, it would also accept
# playlists, which refer to other files.
CONTAINERS = [
    (4, b"ftyp", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
]
# Films often begin in the dark: look at this many frames for one that shows something, which is
# one with a mean brightness (0 to 255) above DARK.
MOST_FRAMES = 60
DARK = 24
LIBRARIES = {
    "image": ["PIL.Image", "pillow_heif"],
    "pdf": ["PIL.Image", "pypdfium2"],
    "video": ["PIL.Image", "av"],
}
# Modules that these libraries import lazily; not every version has all of them.
LATER = {
    "video": ["av.audio.stream", "av.sidedata.sidedata", "av.subtitles.stream", "av.video.stream"]
}
CPU_SECONDS = 15
WALL_SECONDS = 120


class NoPicture(Exception):
    """There can be no picture; carries the reason."""


class Source(io.RawIOBase):
    """The file as a seekable stream, fetched over the socket a block at a time and cached."""

    def __init__(self, line: socket.socket, size: int, block_size: int) -> None:
        self._line, self._size, self._block_size = line, size, block_size
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte to read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or what is left of the file; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self._size:
            number, within = divmod(self._at, self._block_size)
            piece = self._block(number)[within : within + len(view) - done]
            if not piece:
                break
            view[done : done + len(piece)] = piece
            done += len(piece)
            self._at += len(piece)
        return done

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * self._block_size
            self._blocks[number] = self._ask(start, min(self._block_size, self._size - start))
            if len(self._blocks) > 16:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _ask(self, start: int, size: int) -> bytes:
        self._line.sendall(b"R" + struct.pack(">QI", start, size))
        (length,) = struct.unpack(">I", self._hear(4))
        return self._hear(length)

    def _hear(self, size: int) -> bytes:
        heard = bytearray()
        while len(heard) < size:
            piece = self._line.recv(size - len(heard))
            if not piece:
                # The parent has closed the socket.
                raise SystemExit(1)
            heard += piece
        return bytes(heard)


# -- one function for each kind ----------------------------------------------------------------


def image(source: Source, known: dict[str, Any]) -> Any:
    """Decode an image: upright, in sRGB, and no larger than PICTURE."""
    pil = known["PIL.Image"]
    formats = [name for name in FORMATS if name in pil.OPEN]
    picture = pil.open(io.BufferedReader(source, MIB), formats=formats)
    check_size(*picture.size)
    picture.draft("RGB", PICTURE)
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I;16"):
        # Keep the upper eight of 16 bits; convert() would turn all but the darkest greys white.
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
        if "transparency" in picture.info:
            picture.info["transparency"] >>= 8
    # A PNG or GIF may declare one of its colours transparent, in any mode.
    is_clear = picture.mode in ("LA", "PA") or "transparency" in picture.info
    if is_clear or picture.mode not in ("RGB", "RGBA", "L"):
        # A profile belongs to one colour space; one for RGB also fits RGBA.
        profile = profile if picture.mode == "RGB" else None
        picture = picture.convert("RGBA" if is_clear else "RGB")
    picture.thumbnail(PICTURE, reducing_gap=2.0)
    return in_srgb(known["PIL.ImageOps"].exif_transpose(picture), profile, known)


def in_srgb(picture: Any, profile: bytes | None, known: dict[str, Any]) -> Any:
    """Convert to sRGB, which browsers assume of a picture without a profile; drops the profile."""
    if not profile:
        return picture
    cms = known["PIL.ImageCms"]
    try:
        return cms.profileToProfile(
            picture, cms.ImageCmsProfile(io.BytesIO(profile)), cms.createProfile("sRGB")
        )
    except (cms.PyCMSError, OSError, ValueError, TypeError):
        return picture


def pdf(source: Source, known: dict[str, Any]) -> Any:
    """Render the first page."""
    page = known["pypdfium2"].PdfDocument(source)[0]
    width, height = page.get_size()
    if not (0 < width < 1e6 and 0 < height < 1e6):
        raise NoPicture("its page has no size")
    scale = min(PICTURE[0] / max(width, height), 4)
    return page.render(scale=scale, may_draw_forms=False).to_pil().convert("RGB")


def video(source: Source, known: dict[str, Any]) -> Any:
    """Decode the first frame that is not dark, or the first of all, rotated as in playback."""
    head = source.read(16) or b""
    source.seek(0)
    demuxers = [name for at, mark, name in CONTAINERS if head[at : at + len(mark)] == mark]
    if not demuxers:
        raise NoPicture("it is no video")
    container = known["av"].open(source, format=demuxers[0], options={"protocol_whitelist": ""})
    stream = container.streams.video[0]
    check_size(stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.thread_count = 1
    first = None
    for number, frame in enumerate(container.decode(stream)):
        check_size(frame.width, frame.height)
        shown = frame.to_image()
        shown.thumbnail(PICTURE, reducing_gap=2.0)
        shown = shown.rotate(getattr(frame, "rotation", 0), expand=True)
        first = first or shown
        if sum(known["PIL.ImageStat"].Stat(shown.convert("L")).mean) > DARK:
            return shown
        if number >= MOST_FRAMES:
            break
    if first is None:
        raise NoPicture("it has no frame")
    return first


def check_size(width: int, height: int) -> None:
    """Raise NoPicture, before decoding, if there are too many pixels to decode."""
    if width <= 0 or height <= 0 or width * height > MOST_PIXELS:
        raise NoPicture(f"it has {width} x {height} pixels")


# -- the process -------------------------------------------------------------------------------

KINDS = {"image": (image, 4 * MIB), "pdf": (pdf, 512 * KIB), "video": (video, 512 * KIB)}


def limit(memory: int) -> None:
    """Limit this process: `memory` in bytes, CPU time, open files; nothing can be written."""
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, (most, most))
    # In case the parent dies and cannot kill us.
    signal.alarm(WALL_SECONDS)


def load(sight: str) -> dict[str, Any]:
    """Import the libraries with all their lazy modules, then forbid opening further files."""
    known: dict[str, Any] = {}
    for name in LIBRARIES[sight] + LATER.get(sight, []):
        try:
            known[name] = importlib.import_module(name)
        except ImportError as error:
            if name not in [*LATER.get(sight, []), "pillow_heif"]:
                raise NoPicture(f"{name} is not installed") from error
    for name in (
        "PIL.ImageOps",
        "PIL.ImageStat",
        "PIL.ImageCms",
        "PIL.WebPImagePlugin",
        "PIL.JpegImagePlugin",
    ):
        known[name] = importlib.import_module(name)
    known["PIL.Image"].init()
    known["PIL.Image"].MAX_IMAGE_PIXELS = MOST_PIXELS
    if "pillow_heif" in known:
        known["pillow_heif"].register_heif_opener(thumbnails=False)
        known["pillow_heif"].options.DECODE_THREADS = 1
    # One thread for each core would need address space in proportion to the machine.
    avif: Any = sys.modules.get("PIL.AvifImagePlugin")
    if avif:
        avif.DEFAULT_MAX_THREADS = 1
    # The socket stays open. Nothing else can be opened any more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    return known


def as_webp(picture: Any) -> bytes:
    """Encode as WebP, from nothing but pixels: no metadata is kept."""
    made = io.BytesIO()
    picture.save(made, "WEBP", quality=80, method=4)
    return made.getvalue()


def as_jpeg(picture: Any) -> bytes:
    """Encode as JPEG, for programs that support nothing newer."""
    made = io.BytesIO()
    picture.save(made, "JPEG", quality=80)
    return made.getvalue()


def on_white(picture: Any, known: dict[str, Any]) -> Any:
    """Replace transparency by white, so that black drawings are visible on a dark page too."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    ground = known["PIL.Image"].new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def packed(piece: bytes) -> bytes:
    """Prefix the bytes with their length."""
    return struct.pack(">I", len(piece)) + piece


def main() -> None:
    """Render one file and send one answer."""
    number, sight, size, memory, small_as = sys.argv[1:]
    line = socket.socket(fileno=int(number))
    limit(int(memory))
    try:
        known = load(sight)
        draw, block_size = KINDS[sight]
        picture = on_white(draw(Source(line, int(size), block_size), known), known)
        picture.thumbnail(PICTURE)
        if small_as == "jpeg":
            # Unlike ImageOps.contain(), this leaves at least one pixel of either side.
            small_picture = picture.copy()
            small_picture.thumbnail(JPEG_THUMBNAIL)
            small = as_jpeg(small_picture)
        else:
            small = as_webp(known["PIL.ImageOps"].fit(picture, THUMBNAIL))
        said = json.dumps({"width": picture.width, "height": picture.height}).encode()
        answer = b"M" + packed(said) + packed(small) + packed(as_webp(picture))
    except Exception as error:
        answer = b"N" + packed(f"{type(error).__name__}: {error}".encode()[:500])
    line.sendall(answer)


if __name__ == "__main__":
    main()
