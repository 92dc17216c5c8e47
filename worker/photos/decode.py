"""Turns one photo into what a model needs: upright, sRGB, small, and without metadata.

Pure functions from bytes to bytes, for the process of `worker.photos.decoder_main`, which may be killed.
Decoding a hostile file here can take any time and memory; that process limits both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import NoReturn

from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from worker.photos import strip
from worker.photos.kinds import SUPPORTED, is_complete, webp_size

MAX_PIXELS = 100_000_000
QUALITIES = (90, 75, 60)
"""JPEG qualities, tried until a photo has at most its number of bytes; then it is halved in size."""

_JPEG_EDGE = 65_500
_LEAST_SHARE = 0.9
"""A photo is made smaller by a whole factor alone if the result has this share of the longest edge: 4032
pixels become 2016, in a tenth of the time. A JPEG is decoded at a half, a quarter or an eighth already."""

_PLAIN = ("RGB", "CMYK", "LAB", "L")
_GREY = ("1", "L", "LA", "I", "I;16")
_SAME_COLOR = 2
"""A difference of 255 levels that comes from rounding."""
_BAND_PIXELS = 1_000_000
_PALETTE_COLORS = 4096
"""A photo with more colors is not tried as PNG: it would be larger than the JPEG, and takes much longer."""
_BAND_ROWS = 128

_BYTES_PER_PIXEL = {"PNG": 4, "GIF": 4, "BMP": 4, "TIFF": 8, "WEBP": 16, "AVIF": 10, "HEIF": 7}
_BYTES_PER_DEEP_PIXEL = 14
"""Memory that decoding takes, measured with Pillow 13 and pi-heif 1.4; the second for a HEIF of
10 or 12 bits."""
_WORKING_BYTES = 40_000_000
"""Memory for bands, encoded bytes, libraries and texts."""
_TEXT_CHARACTERS = 4 * 1024 * 1024
"""The longest texts in a PNG, all together. Pillow keeps them, a character in up to four bytes."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SUBFILE_TYPE, _PREVIEW = 254, 1
"""The first image is a smaller version of another one, which Pillow does not read: in a DNG, NEF or ARW."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # `Source` has its own limit, and says what it is


class Unusable(Exception):
    """The photo cannot be prepared; `code` is that of the BadInput, `reason` follows the photo's name."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What a prepared photo may be: pixels on its long edge (None: any number), and bytes."""

    max_edge: int | None
    max_bytes: int

    @property
    def edge(self) -> int:
        """The long edge as a number: without a limit, the longest that a JPEG can have."""
        return self.max_edge or _JPEG_EDGE


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared photo."""

    data: bytes
    mime_type: str
    width: int
    height: int


class Source:
    """A photo whose header has been read; `memory` is what `prepare` takes at most, in bytes."""

    def __init__(self, kind: str, data: bytes, limits: Limits, max_memory: int) -> None:
        self._kind, self._data, self._limits = kind, data, limits
        if not is_complete(kind, data):
            raise Unusable("photo_damaged", "is damaged: it ends early")
        with _readable():
            size = webp_size(data) if kind == "WEBP" else None  # Pillow would reserve memory for its pixels
        if size:
            _check_pixels(size)
            most = (max_memory - _WORKING_BYTES) // _BYTES_PER_PIXEL[kind]
            if size[0] * size[1] > most:
                _too_large(*size, most)
        _load_library(kind)
        with _readable():
            image = Image.open(BytesIO(data), formats=(kind,))
        _check_pixels(image.size)
        width, height = image.size
        shrink = min(limits.edge / max(width, height), 1.0)
        least = shrink * _LEAST_SHARE
        image.draft(None, (math.ceil(width * least), math.ceil(height * least)))
        self._image = image
        with _readable():  # the tags of a TIFF may have any type
            self.memory = _memory(kind, data, image, (width, height), limits.edge)
            is_preview = _tag(image, _SUBFILE_TYPE) & _PREVIEW
        if is_preview:
            raise Unusable("photo_not_an_image", f"is a camera's raw file; {SUPPORTED}")
        if self.memory > max_memory:
            share = (max_memory - _WORKING_BYTES) / (self.memory - _WORKING_BYTES)
            _too_large(width, height, int(width * height * share))

    def prepare(self) -> Prepared:
        """Decode, convert and encode the photo; only once. Raises Unusable.

        Without a limit of the edge, a file that a model can read as it is loses its metadata only.
        """
        image = self._image
        del self._image  # decoded pixels are freed as soon as they are converted
        with _readable():
            image.load()
        orientation, profile = _orientation(image), image.info.get("icc_profile")
        if self._limits.max_edge is None and orientation == 1 and (kept := self._kept(image)):
            return kept
        small = _shrunk(image, self._limits.edge)
        del image
        return _encoded(_upright(_srgb(small, profile), orientation), self._limits)

    def _kept(self, image: Image.Image) -> Prepared | None:
        """The original bytes without metadata; None if a model could not read them or they are too many.

        Nor are they kept if the file is malformed, or has another color profile than sRGB's: a profile may
        contain any text.
        """
        if self._kind not in strip.KINDS or image.mode == "CMYK":
            return None
        if _has_other_colors(image.mode, image.info.get("icc_profile")):
            return None
        try:
            data = strip.without_metadata(self._kind, self._data)
        except (ValueError, IndexError):
            return None
        if len(data) > self._limits.max_bytes:
            return None
        return Prepared(data, f"image/{self._kind.lower()}", *image.size)


@cache
def _load_library(kind: str) -> None:
    """Load what decodes a kind of photo when its first one comes: AVIF's and HEIF's take 15 ms each.

    For WEBP and TIFF, Pillow would load all its plugins; those of the other kinds it always loads.
    """
    if kind == "HEIF":
        import pi_heif

        pi_heif.options.DECODE_THREADS = 1
        pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    elif kind == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    elif kind == "PNG":
        from PIL import PngImagePlugin

        PngImagePlugin.MAX_TEXT_MEMORY = _TEXT_CHARACTERS
    elif kind in ("TIFF", "WEBP"):
        import_module("PIL.TiffImagePlugin" if kind == "TIFF" else "PIL.WebPImagePlugin")


def _memory(kind: str, data: bytes, image: Image.Image, size: tuple[int, int], max_edge: int) -> int:
    """Bytes for decoding and what is kept of it, or for the copies of the result if those are more."""
    width, height = size
    pixels = width * height
    decoded = image.size[0] * image.size[1]
    kept = 4 * decoded / _factor(image.size, max_edge) ** 2
    if kind == "JPEG":
        # The coefficients of the whole photo are kept while several scans are decoded.
        coefficients = 2 * pixels * _samples(image) if _has_several_scans(data, image) else 0
        decoding = 4 * decoded + coefficients
    else:
        deep = kind == "HEIF" and image.info.get("bit_depth", 8) > 8
        per_pixel = _BYTES_PER_DEEP_PIXEL if deep else _BYTES_PER_PIXEL[kind]
        decoding = per_pixel * max(pixels, _tile_pixels(image))
    shrink = min(max_edge / max(size), 1.0)
    return round(_WORKING_BYTES + max(decoding + kept, 12 * pixels * shrink**2))


def _factor(size: tuple[int, int], max_edge: int) -> int:
    """The whole factor by which an image is made smaller; a filter does the rest."""
    return max(math.floor(max(size) / (max_edge * _LEAST_SHARE)), 1)


def _tile_pixels(image: Image.Image) -> int:
    """Pixels of a TIFF's tile, which is decoded whole and may be larger than the image; 0 for other kinds."""
    return _tag(image, _TILE_WIDTH) * _tag(image, _TILE_LENGTH)


def _tag(image: Image.Image, number: int) -> int:
    """A number in a TIFF's tags; 0 without it, and for other kinds."""
    return int(getattr(image, "tag_v2", {}).get(number, 0))


def _has_several_scans(data: bytes, image: Image.Image) -> bool:
    """Whether a JPEG is progressive, or its first scan does not have all of its components."""
    components = len(getattr(image, "layer", ()))
    return "progressive" in image.info or strip.first_scan_components(data) < components


def _samples(image: Image.Image) -> float:
    """Samples per pixel of a JPEG: 1.5 for the usual 4:2:0."""
    layers = [(across, down) for _, across, down, _ in getattr(image, "layer", ())] or [(1, 1)] * 4
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return float(sum(across * down for across, down in layers) / most)


def _shrunk(image: Image.Image, max_edge: int) -> Image.Image:
    """The image in mode RGB, CMYK, LAB or L, at most `max_edge` pixels long."""
    factor = _factor(image.size, max_edge)
    if image.mode not in _PLAIN or "transparency" in image.info:
        bands = (_plain(band).reduce(factor) for band in _bands(image, factor))
        image = _stacked(bands, image.size, factor)
    elif factor > 1:
        image = image.reduce(factor)
    scale = max_edge / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(round(side * scale), 1) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)  # not in place: pi_heif would decode again


def _bands(image: Image.Image, factor: int) -> Iterator[Image.Image]:
    """The image in bands of rows, so that a conversion needs memory for one band at a time."""
    width, height = image.size
    rows = max(_BAND_PIXELS // width // factor, 1) * factor
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(top + rows, height)))


def _stacked(bands: Iterator[Image.Image], size: tuple[int, int], factor: int) -> Image.Image:
    width, height = (-(-side // factor) for side in size)
    first = next(bands)
    whole = Image.new(first.mode, (width, height))
    whole.paste(first)
    top = first.height
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    return whole


def _plain(image: Image.Image) -> Image.Image:
    """The image in mode RGB, CMYK, LAB or L with 8 bits; what is transparent becomes white."""
    if image.mode.startswith("I;16"):
        return Image.frombytes("L", image.size, image.convert("I;16").tobytes()[1::2])
    if image.mode in ("I", "F"):
        return _scaled(image)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode in _PLAIN:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """32 bits a pixel, whose range no file states: 0 to 1, 0 to 255 or 0 to 65535, by the largest."""
    extrema = image.convert("F").getextrema()
    largest = extrema[1] if isinstance(extrema[1], float) else 255.0
    scale = next((255 / most for most in (1.0, 255.0, 65535.0) if largest <= most), 255 / max(largest, 1.0))
    return image.convert("F").point(lambda value: value * scale + 0.0).convert("L")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in mode RGB and sRGB; not converted if it already is, which would take 50 ms."""
    if image.mode == "RGB" and not _has_other_colors(image.mode, profile):
        return image
    return _converted(image, profile)


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from the photo's color profile; without one, or with one of no use, as Pillow converts."""
    if image.mode == "LAB":
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            return _transformed(image, source)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


def _transformed(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    target = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(source, target, image.mode, "RGB").apply(image)


def _has_other_colors(mode: str, profile: bytes | None) -> bool:
    """Whether a photo's color profile is not sRGB's: whether converting from it changes a sample."""
    if not profile:
        return False
    ramp = Image.linear_gradient("L")
    turned = [
        ramp,
        *(ramp.transpose(turn) for turn in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)),
    ]
    sample = ramp if mode in _GREY else Image.merge("RGB", turned)
    converted = _converted(sample, profile)
    changes = ImageChops.difference(sample.convert("RGB"), converted).getextrema()
    return any(change[1] > _SAME_COLOR for change in changes if isinstance(change, tuple))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a damaged header of metadata is no reason to refuse the photo
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _encoded(image: Image.Image, limits: Limits) -> Prepared:
    """Encode as JPEG, or as PNG if that is smaller, with at most `max_bytes`."""
    image.info.clear()  # or Pillow would write the comment and the profile
    while True:
        png = _png(image) if _is_drawing(image) else None
        for quality in QUALITIES:
            data, mime_type = _jpeg(image, quality), "image/jpeg"
            if png and len(png) < len(data):
                data, mime_type = png, "image/png"
            if len(data) <= limits.max_bytes:
                return Prepared(data, mime_type, *image.size)
        image = ImageOps.scale(image, 0.5)


def _is_drawing(image: Image.Image) -> bool:
    """Whether a PNG is likely to be smaller, by the number of colors and by a band in the middle."""
    if image.getcolors(_PALETTE_COLORS) is None:
        return False
    top = max((image.height - _BAND_ROWS) // 2, 0)
    band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
    return len(_png(band)) < len(_jpeg(band, QUALITIES[0]))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    return _saved(lambda out: image.save(out, "JPEG", quality=quality))


def _png(image: Image.Image) -> bytes:
    return _saved(lambda out: image.save(out, "PNG"))


def _saved(save: Callable[[BytesIO], None]) -> bytes:
    out = BytesIO()
    save(out)
    return out.getvalue()


@contextmanager
def _readable() -> Iterator[None]:
    """Translate what Pillow and its plugins raise for a file that they cannot read: any exception."""
    try:
        yield
    except MemoryError as exc:
        raise Unusable("photo_too_large", "needs too much memory to open: make it smaller") from exc
    except UnidentifiedImageError as exc:
        raise Unusable("photo_damaged", "is damaged: its header cannot be read") from exc
    except Exception as exc:
        if "MAX_TEXT_" in str(exc):  # Pillow's limits for the texts of a PNG
            raise Unusable("photo_too_large", "has too much text in its metadata: save it without") from exc
        ends = isinstance(exc, EOFError) or any(word in str(exc).lower() for word in ("truncat", "end of"))
        reason = "it ends early" if ends else "it cannot be decoded"
        raise Unusable("photo_damaged", f"is damaged: {reason}") from exc


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        _too_large(*size, MAX_PIXELS)


def _too_large(width: int, height: int, most: int) -> NoReturn:
    said = f"has {width} x {height} pixels; the limit for such a file is {most // 1_000_000} megapixels"
    raise Unusable("photo_too_large", said)
