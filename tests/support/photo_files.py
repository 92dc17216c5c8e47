"""Photos as people have them, made here: sideways, with GPS, in any type, mode and color profile."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, ImageOps

SECRET = "SECRET-PLACE-48.8584N-2.2945E"
SAMPLES = Path(__file__).parent / "samples"

Color = tuple[int, int, int]
RED, GREEN, BLUE, WHITE = (230, 20, 20), (20, 200, 20), (20, 20, 230), (255, 255, 255)


def marked(size: tuple[int, int] = (96, 64), mode: str = "RGB") -> Image.Image:
    """A blue image with a red corner at the top left and a green one at the top right."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 3, size[1] // 3))
    image.paste(GREEN, (size[0] - size[0] // 3, 0, size[0], size[1] // 3))
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file of a picture; JPEG without subsampling, so that its colors are exact."""
    usual: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind in ("JPEG", "MPO") else {}
    usual |= {"lossless": True} if kind == "WEBP" else {}
    usual |= {"quality": 95, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    out = io.BytesIO()
    image.save(out, kind, **{**usual, **options})
    return out.getvalue()


def exif(orientation: int = 1) -> bytes:
    """EXIF with an orientation, a position, and the maker's words."""
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010F] = SECRET
    gps = found.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (48.0, 51.0, 30.0), "E", (2.0, 17.0, 40.0)
    gps[29] = SECRET
    return found.tobytes()


STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: ImageOps.mirror,
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: ImageOps.flip,
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}
"""How a camera stores an upright picture that it gives an EXIF orientation."""


def sideways(orientation: int, kind: str = "JPEG") -> bytes:
    """The marked picture as a camera stores it."""
    return saved(STORED[orientation](marked()), kind, exif=exif(orientation))


@cache  # it has its time in it
def profile(red: bytes = b"gXYZ", green: bytes = b"rXYZ") -> bytes:
    """sRGB's profile with red and green exchanged, so that a conversion shows."""
    found = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at_red, at_green = found.index(b"rXYZ"), found.index(b"gXYZ")
    found[at_red : at_red + 4], found[at_green : at_green + 4] = red, green
    return bytes(found)


ADOBE_RGB = {b"rXYZ": (0.60974, 0.31111, 0.01947), b"gXYZ": (0.20528, 0.62567, 0.06087),
             b"bXYZ": (0.14919, 0.06322, 0.74457)}  # fmt: skip
"""Colorants of Adobe RGB (1998), adapted to D50."""

DISPLAY_P3 = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
              b"bXYZ": (0.15710, 0.06657, 0.78407)}  # fmt: skip
"""Colorants of Display P3, adapted to D50."""


def profile_of(colorants: Mapping[bytes, tuple[float, float, float]]) -> bytes:
    """sRGB's profile with other colorants."""
    found = bytearray(profile(b"rXYZ", b"gXYZ"))
    for name, colorant in colorants.items():
        entry = found.index(name)
        at = int.from_bytes(found[entry + 4 : entry + 8], "big") + 8
        found[at : at + 12] = b"".join(
            round(value * 65536).to_bytes(4, "big", signed=True) for value in colorant
        )
    return bytes(found)


PAPER, GREEN_INK, RED_INK, BOTH_INKS = (255, 128, 128), (195, 60, 190), (125, 205, 195), (0, 128, 128)
"""CIE Lab as bytes."""


def profile_of_inks() -> bytes:
    """A printer's profile in which the first ink is green, the second red, the others nothing at all."""
    grid = b"".join(map(bytes, [PAPER] * 4 + [RED_INK] * 4 + [GREEN_INK] * 4 + [BOTH_INKS] * 4))
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (at % 4 == 0) for at in range(9)))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + matrix + straight * 4 + grid + straight * 3
    header = struct.pack(">I4sI", 132 + 12 + len(table), b"none", 0x02100000) + b"prtrCMYKLab " + bytes(12)
    header += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)  # the light of D50
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def with_gain_map() -> bytes:
    """A photo of a newer phone (Ultra HDR): a JPEG, metadata about a gain map, and the gain map."""
    about = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" hdrgm:Version="1.0">{SECRET}</x:xmpmeta>'.encode()
    gains = Image.linear_gradient("L").resize((48, 32))
    return saved(marked(), "MPO", save_all=True, append_images=[gains], xmp=about)


def deep_grey() -> bytes:
    """A PNG of 16 bits, dark on the left and light on the right."""
    row = b"\x00\x40" * 48 + b"\x00\xc0" * 48
    return saved(Image.frombytes("I;16", (96, 64), row * 64), "PNG")


def floating_grey() -> bytes:
    """A TIFF whose pixels are numbers from 0 to 1."""
    image = Image.new("F", (96, 64), 0.25)
    image.paste(0.75, (48, 0, 96, 64))
    return saved(image, "TIFF")


def see_through(mode: str) -> Image.Image:
    """A picture whose lower half is transparent."""
    image = marked(mode="RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (0, 32, 96, 64))
    return image.convert(mode)


def animated(kind: str) -> bytes:
    """The marked picture first, then a green one."""
    return saved(marked(), kind, save_all=True, append_images=[Image.new("RGB", (96, 64), GREEN)])


def inverted_polyglot() -> bytes:
    """A photo with a page in a comment and another behind its end."""
    page = f"<html><script>alert('{SECRET}')</script></html>".encode()
    return saved(marked(), "JPEG", comment=page) + page


def endless() -> bytes:
    """A small progressive JPEG whose last scan is repeated so often that decoding it takes minutes."""
    data = saved(marked((2000, 2000), "L"), "JPEG", progressive=True, quality=20)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * 60_000 + data[-2:]


def endless_and_large() -> bytes:
    """As `endless`, with a header of 64 megapixels: it needs nearly as much memory as a photo may have."""
    data = saved(marked((2000, 2000)), "JPEG", progressive=True, quality=20)
    scan = data[data.rindex(b"\xff\xda") : -2]
    at = data.index(b"\xff\xc2") + 5
    header = data[:at] + struct.pack(">HH", 8000, 8000) + data[at + 4 : -2]
    return header + scan * 60_000 + data[-2:]


def scan_by_scan(side: int) -> bytes:
    """A baseline JPEG of four inks, each in a scan of its own, as some scanners write it."""
    grey = saved(Image.new("L", (side, side), 100), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    inks = range(1, 5)
    header = struct.pack(">2sHBHHB", b"\xff\xc0", 20, 8, side, side, 4)
    header += b"".join(bytes([ink, 0x11, 0]) for ink in inks)
    rest = frame + 2 + int.from_bytes(grey[frame + 2 : frame + 4], "big")
    scans = (grey[scan : scan + 5] + bytes([ink]) + grey[scan + 6 : -2] for ink in inks)
    return grey[:frame] + header + grey[rest:scan] + b"".join(scans) + grey[-2:]


TOP_LEFT, TOP_RIGHT, MIDDLE, BOTTOM = (0.1, 0.1), (0.9, 0.1), (0.5, 0.6), (0.5, 0.95)
LEFT, RIGHT = (0.2, 0.5), (0.8, 0.5)
CORNERS = {TOP_LEFT: RED, TOP_RIGHT: GREEN, MIDDLE: BLUE}
GREY = {LEFT: (64, 64, 64), RIGHT: (192, 192, 192)}
Expected = tuple[Callable[[], bytes], tuple[int, int], dict[tuple[float, float], Color]]

PHOTOS: dict[str, Expected] = {
    **{f"orientation-{n}.jpg": (partial(sideways, n), (96, 64), CORNERS) for n in STORED},
    "orientation-6.png": (lambda: sideways(6, "PNG"), (96, 64), CORNERS),
    "orientation-8.webp": (lambda: sideways(8, "WEBP"), (96, 64), CORNERS),
    "orientation-5.tif": (lambda: sideways(5, "TIFF"), (96, 64), CORNERS),
    "orientation-7.avif": (lambda: sideways(7, "AVIF"), (96, 64), CORNERS),
    "large.jpg": (lambda: saved(marked((5000, 2500)), "JPEG", exif=exif()), (2048, 1024), CORNERS),
    "long.png": (lambda: saved(marked((300, 9000)), "PNG"), (68, 2048), CORNERS),
    "progressive.jpg": (lambda: saved(marked((2560, 1280)), "JPEG", progressive=True), (2048, 1024), CORNERS),
    "comment.jpg": (inverted_polyglot, (96, 64), CORNERS),
    "xmp.webp": (lambda: saved(marked(), "WEBP", xmp=SECRET.encode(), exif=exif()), (96, 64), CORNERS),
    "two.mpo": (lambda: animated("MPO"), (96, 64), CORNERS),
    "moving.gif": (lambda: animated("GIF"), (96, 64), CORNERS),
    "moving.png": (lambda: animated("PNG"), (96, 64), CORNERS),
    "moving.webp": (lambda: animated("WEBP"), (96, 64), CORNERS),
    "pages.tif": (lambda: animated("TIFF"), (96, 64), CORNERS),
    "plain.bmp": (lambda: saved(marked(), "BMP"), (96, 64), CORNERS),
    "plain.avif": (lambda: saved(marked(), "AVIF"), (96, 64), CORNERS),
    "cmyk.jpg": (lambda: saved(marked(mode="CMYK"), "JPEG"), (96, 64), CORNERS),
    "cmyk.tif": (lambda: saved(marked(mode="CMYK"), "TIFF"), (96, 64), CORNERS),
    "cmyk-with-a-profile-of-rgb.jpg": (
        lambda: saved(marked(mode="CMYK"), "JPEG", icc_profile=profile()), (96, 64), CORNERS,
    ),
    "palette.png": (lambda: saved(marked().quantize(8), "PNG"), (96, 64), CORNERS),
    "grey.jpg": (lambda: saved(Image.new("L", (96, 64), 90), "JPEG"), (96, 64), {MIDDLE: (90, 90, 90)}),
    "black-and-white.png": (lambda: saved(Image.new("1", (96, 64), 1), "PNG"), (96, 64), {MIDDLE: WHITE}),
    "deep-grey.png": (deep_grey, (96, 64), GREY),
    "floating-grey.tif": (floating_grey, (96, 64), GREY),
    "lab.tif": (lambda: saved(lab(), "TIFF"), (96, 64), CORNERS),
    "see-through.png": (lambda: saved(see_through("RGBA"), "PNG"), (96, 64), {BOTTOM: WHITE}),
    "see-through-grey.png": (lambda: saved(see_through("LA"), "PNG"), (96, 64), {BOTTOM: WHITE}),
    "see-through.gif": (
        lambda: saved(see_through("RGBA"), "GIF"), (96, 64), {TOP_LEFT: RED, BOTTOM: WHITE},
    ),
    "see-through-and-large.png": (
        lambda: saved(see_through("RGBA").resize((2560, 1280)), "PNG"),
        (2048, 1024), {TOP_LEFT: RED, BOTTOM: WHITE},
    ),
    "exchanged.jpg": (
        lambda: saved(marked(), "JPEG", icc_profile=profile()),
        (96, 64), {TOP_LEFT: (20, 230, 20), TOP_RIGHT: (200, 20, 20)},
    ),
    "adobe.png": (
        lambda: saved(Image.new("RGB", (96, 64), (100, 200, 100)), "PNG", icc_profile=profile_of(ADOBE_RGB)),
        (96, 64), {MIDDLE: (0, 200, 92)},
    ),
    "display-p3.png": (
        lambda: saved(Image.new("RGB", (96, 64), (100, 200, 100)), "PNG", icc_profile=profile_of(DISPLAY_P3)),
        (96, 64), {MIDDLE: (45, 203, 86)},
    ),
    "cmyk-with-a-profile.jpg": (
        lambda: saved(inks(), "JPEG", icc_profile=profile_of_inks()),
        (96, 64), {LEFT: (21, 218, 55), RIGHT: (233, 0, 0)},
    ),
    "ultra-hdr.jpg": (with_gain_map, (96, 64), CORNERS),
    "broken-profile.png": (lambda: saved(marked(), "PNG", icc_profile=b"no profile"), (96, 64), CORNERS),
    "eight.heic": (lambda: (SAMPLES / "rgb-8.heif").read_bytes(), (29, 100), {}),
    "ten.heic": (lambda: (SAMPLES / "rgb-10.heif").read_bytes(), (29, 100), {}),
    "see-through.heic": (lambda: (SAMPLES / "rgba-8.heif").read_bytes(), (29, 100), {}),
    "rotated.heic": (
        lambda: (SAMPLES / "rotated.heic").read_bytes(),
        (64, 64), {TOP_LEFT: (25, 229, 98), TOP_RIGHT: WHITE},
    ),
    "iphone.heic": (
        lambda: (SAMPLES / "iphone.heic").read_bytes(), (1025, 900), {MIDDLE: (49, 60, 66)},
    ),
    "nokia.jpg": (
        lambda: (SAMPLES / "nokia.jpg").read_bytes(), (640, 480), {TOP_RIGHT: (162, 185, 253)},
    ),
    "stereo.mpo": (
        lambda: (SAMPLES / "stereo.mpo").read_bytes(), (640, 480), {BOTTOM: WHITE},
    ),
    "photoshop.jpg": (
        lambda: (SAMPLES / "cmyk.jpg").read_bytes(), (100, 100), {TOP_RIGHT: (0, 4, 5)},
    ),
}  # fmt: skip
"""By name: the file, the size that Gemini gets, and the colors at places given as shares of the size."""


def inks() -> Image.Image:
    """The first ink on the left, the second on the right."""
    image = Image.new("CMYK", (96, 64), (255, 0, 0, 0))
    image.paste((0, 255, 0, 0), (48, 0, 96, 64))
    return image


def lab() -> Image.Image:
    """The marked picture in CIE Lab."""
    source, target = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(source, target, "RGB", "LAB").apply(marked())


def is_close(image: Image.Image, place: tuple[float, float], color: Color, within: int = 12) -> bool:
    """Whether the picture has about this color at a place."""
    at = (int(place[0] * image.width), int(place[1] * image.height))
    found = image.getpixel(at)
    assert isinstance(found, tuple)
    return all(abs(one - other) <= within for one, other in zip(found, color, strict=True))
