"""Files that pose as photos, and the code of each refusal: None where it really is a photo."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib

from PIL import Image


def encoded(kind: str, **options: object) -> bytes:
    """A small picture."""
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, 48)).save(out, kind, **options)
    return out.getvalue()


JPEG, PNG, WEBP = encoded("JPEG"), encoded("PNG"), encoded("WEBP")
NOTHING = zlib.compress(bytes(64 << 20), 1)
PAGE = b"<!doctype html><html><script>alert(1)</script></html>"


def chunk(name: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int) -> bytes:
    """A PNG that announces a size, and whose pixels unpack to 64 MB of nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return PNG[:8] + header + chunk(b"IDAT", NOTHING) + chunk(b"IEND", b"")


def with_texts(number: int) -> bytes:
    """A PNG with so many compressed texts of a megabyte."""
    texts = (chunk(b"zTXt", b"%d\0\0" % at + zlib.compress(bytes(1_000_000))) for at in range(number))
    return PNG[:33] + b"".join(texts) + PNG[33:]


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose frame header announces a size."""
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def webp_of(width: int, height: int) -> bytes:
    """A WEBP whose canvas announces a size."""
    head = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(head)) + head + WEBP[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def archive() -> bytes:
    """A zip file with a page in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr("index.html", PAGE)
    return out.getvalue()


def with_exif(size: int) -> bytes:
    """A JPEG with as many bytes of EXIF as fit (64 kB a segment), none of them sense."""
    segment = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\0\0MM\0*" + b"\xff" * 65_523
    return JPEG[:2] + segment * (size // len(segment)) + JPEG[2:]


def tiff_with_a_word_for_a_width() -> bytes:
    """A TIFF whose tag for the width of its tiles is a text: an artist's name becomes it."""
    data = encoded("TIFF", tiffinfo={315: "wide"})
    return data.replace(struct.pack("<HH", 315, 2), struct.pack("<HH", 322, 2))


FILES: dict[str, tuple[bytes, str | None]] = {
    "png-bomb.png": (png_of(60_000, 60_000), "photo_too_large"),
    "png-above.png": (png_of(10_001, 10_000), "photo_too_large"),
    "png-most.png": (png_of(2**31 - 1, 2**31 - 1), "photo_too_large"),
    "png-thin.png": (png_of(2**31 - 1, 1), "photo_too_large"),
    "png-negative.png": (png_of(2**32 - 1, 2**32 - 1), "photo_too_large"),
    "png-flat.png": (png_of(100, 0), "photo_damaged"),
    "jpeg-bomb.jpg": (jpeg_of(65_535, 65_535), "photo_too_large"),
    "jpeg-flat.jpg": (jpeg_of(64, 0), "photo_damaged"),
    "webp-bomb.webp": (webp_of(16_000, 16_000), "photo_too_large"),
    "webp-large.webp": (webp_of(7_000, 5_200), "photo_too_large"),
    "webp-most.webp": (webp_of(1 << 24, 1 << 24), "photo_too_large"),
    "page.jpg": (PAGE, "photo_not_an_image"),
    "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "photo_not_an_image"),
    "paper.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "photo_not_an_image"),
    "moving.jpg": (encoded("GIF"), None),
    "bitmap.png": (encoded("BMP"), None),
    "icon.png": (encoded("ICO"), "photo_not_an_image"),
    "scan.jpg": (encoded("TIFF"), None),
    "raw.dng": (encoded("TIFF", tiffinfo={254: 1}), "photo_not_an_image"),
    "tiles.tif": (tiff_with_a_word_for_a_width(), "photo_damaged"),
    "archive.jpg": (archive(), "photo_not_an_image"),
    "packed.jpg": (gzip.compress(JPEG), "photo_not_an_image"),
    "program.png": (b"\x7fELF\2\1\1" + bytes(64), "photo_not_an_image"),
    "page-then-jpeg.jpg": (PAGE + JPEG, "photo_not_an_image"),
    "space-then-jpeg.jpg": (b"\n" + JPEG, "photo_not_an_image"),
    "cut.jpg": (JPEG[:100], "photo_damaged"),
    "cut.png": (PNG[:30], "photo_damaged"),
    "cut.webp": (WEBP[:24], "photo_damaged"),
    "signature.png": (PNG[:8], "photo_damaged"),
    "byte.jpg": (b"\xff", "photo_not_an_image"),
    "zeros.jpg": (bytes(1000), "photo_not_an_image"),
    "nothing.jpg": (b"", "photo_empty"),
    "large.jpg": (JPEG + bytes(7_000_000), "photo_too_large"),
    "jpeg-and-zip.jpg": (JPEG + archive(), None),
    "jpeg-and-page.jpg": (JPEG + PAGE, None),
    "page-in-a-comment.jpg": (encoded("JPEG", comment=PAGE), None),
    "text.png": (with_texts(4), None),
    "text-bomb.png": (with_texts(60), "photo_too_large"),
    "exif-bomb.jpg": (with_exif(6_000_000), None),
    "named.exe": (WEBP, None),
}
