"""Files of every kind that has a preview, and some that are made to break decoders.

What takes long to encode is made once per process: modules ask for the same while pytest loads them.
"""

import io
import struct
import zlib
from fractions import Fraction
from functools import cache

import av
from PIL import Image, ImageDraw

PALETTE = ("#1c3d5a", "#f5b301", "#d96c4f", "#e9e2d0")


def drawn(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """A simple landscape that looks different on every side."""
    image = Image.new("RGB", (width, height), PALETTE[3])
    draw = ImageDraw.Draw(image)
    horizon = height * 3 // 5
    draw.rectangle((0, horizon, width, height), fill=PALETTE[0])
    x = width * (2 + seed % 5) // 8
    radius = min(width, height) // 8
    draw.ellipse((x - radius, horizon - 2 * radius, x + radius, horizon), fill=PALETTE[1])
    draw.polygon((0, horizon, width // 4, height // 3, width // 2, horizon), fill=PALETTE[2])
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as an encoded file."""
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


@cache
def heic(width: int = 640, height: int = 480) -> bytes:
    """A HEIC picture, as phones take them."""
    import pillow_heif

    made = io.BytesIO()
    pillow_heif.from_pillow(drawn(width, height)).save(made, quality=80)
    return made.getvalue()


@cache
def pdf() -> bytes:
    """One portrait page with lines like text."""
    page = Image.new("RGB", (1240, 1754), "white")
    draw = ImageDraw.Draw(page)
    for row in range(24):
        draw.rectangle((140, 200 + row * 52, 1100 - row % 5 * 90, 216 + row * 52), fill="#333")
    return encoded(page, "PDF", resolution=150)


@cache
def video(kind: str = "mp4", codec: str = "libx264", dark: int = 0, seconds: int = 1) -> bytes:
    """A short video; its first `dark` frames are black."""
    made = io.BytesIO()
    with av.open(made, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.time_base = Fraction(1, 24)
        for number in range(24 * seconds):
            image = Image.new("RGB", (320, 240)) if number < dark else drawn(320, 240, number)
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return made.getvalue()


def wav(seconds: float = 1.0) -> bytes:
    """Silence that a browser can play."""
    data = b"\0\0" * int(8000 * seconds)
    head = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", len(data))
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(data)) + b"WAVE" + head + data


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_that_says(width: int, height: int, pixels: bytes) -> bytes:
    """A 1-bit PNG whose header claims this size, whatever its pixel data is."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


@cache
def bomb() -> bytes:
    """A decompression bomb: a few kilobytes that decode to 900 million pixels."""
    squeezer = zlib.compressobj(9)
    row = b"\0" * (1 + 30_000 // 8)
    pixels = b"".join(squeezer.compress(row) for _ in range(30_000)) + squeezer.flush()
    return png_that_says(30_000, 30_000, pixels)


def opened(made: bytes) -> Image.Image:
    """Open a WebP picture that Beeline has made."""
    return Image.open(io.BytesIO(made), formats=["WEBP"])
