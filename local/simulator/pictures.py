"""Makes the simulator's pictures: a source photo cropped to the ordered ratio, restyled and captioned.

A picture depends only on photo, prompt and number, so the same order draws the same bytes.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import random
import threading
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps, UnidentifiedImageError

from local.simulator.photos import UnreadablePhoto, decoded

# Pixels of a 1K image by aspect ratio: Gemini API, "Image generation", table of gemini-2.5-flash-image.
SIZES: dict[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
Colour = tuple[int, int, int]
Look = Callable[[Image.Image, random.Random], Image.Image]


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _duotone(photo: Image.Image, chance: random.Random) -> Image.Image:
    hue = chance.random()
    dark, middle, light = _colour(hue, 0.9, 0.2), _colour(hue + 0.12, 0.7, 0.7), _colour(hue + 0.3, 0.25, 1.0)
    return ImageOps.colorize(photo.convert("L"), dark, light, mid=middle)


def _tint(photo: Image.Image, chance: random.Random) -> Image.Image:
    return Image.blend(photo, _duotone(photo, chance), 0.45)


def _poster(photo: Image.Image, chance: random.Random) -> Image.Image:
    return ImageOps.posterize(_tint(photo, chance), 2)


def _contours(photo: Image.Image, chance: random.Random) -> Image.Image:
    lines = ImageOps.invert(photo.convert("L").filter(ImageFilter.FIND_EDGES)).convert("RGB")
    return ImageChops.multiply(_tint(photo, chance), lines)


def _gradient(size: tuple[int, int], chance: random.Random) -> Image.Image:
    slope = Image.linear_gradient("L").resize(size)
    return ImageOps.colorize(slope, _colour(chance.random(), 0.8, 0.3), _colour(chance.random(), 0.3, 1.0))


LOOKS: tuple[Look, ...] = (_tint, _duotone, _poster, _contours)


def _decode(photo_base64: str, size: tuple[int, int]) -> Image.Image:
    """Decode, turn upright and crop centred to `size` pixels."""
    data = decoded(photo_base64)
    try:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", size)
        upright = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as exc:
        raise UnreadablePhoto(str(exc)) from exc
    return ImageOps.fit(upright, size, Image.Resampling.BILINEAR)


def _caption(image: Image.Image, text: str) -> None:
    width, height = image.size
    font_size = max(9, width // 34)
    top = height - round(font_size * 1.8)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, top, width, height), fill=(16, 16, 20))
    draw.text(
        (font_size // 2, top + font_size // 3),
        text,
        fill=(245, 245, 240),
        font=ImageFont.load_default(font_size),
    )


def _encode(image: Image.Image, mime_type: str) -> bytes:
    """JPEG, or PNG with a palette of 64 colours: three times faster to pack than 24 bits a pixel."""
    out = io.BytesIO()
    if mime_type == "image/jpeg":
        image.save(out, "JPEG", quality=85)
    else:
        image.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            out, "PNG", compress_level=1
        )
    return out.getvalue()


class Painter:
    """Makes pictures; thread-safe. The last `max_sources` decoded and cropped photos are cached."""

    def __init__(self, max_sources: int = 32) -> None:
        self._max_sources = max_sources
        self._sources: OrderedDict[tuple[str, tuple[int, int]], Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def source(self, photo_base64: str, size: tuple[int, int]) -> Image.Image:
        """Return the photo cropped to `size` pixels; raise UnreadablePhoto. Never draw on the result."""
        key = (hashlib.sha256(photo_base64.encode()).hexdigest(), size)
        with self._lock:
            if key in self._sources:
                self._sources.move_to_end(key)
                return self._sources[key]
        image = _decode(photo_base64, size)
        with self._lock:
            self._sources[key] = image
            while len(self._sources) > self._max_sources:
                self._sources.popitem(last=False)
        return image

    def paint(
        self, photo_base64: str | None, prompt: str, number: int, ratio: str, scale: float, mime_type: str
    ) -> bytes:
        """Return one encoded image; `scale` 1.0 gives Gemini's own size, less a smaller one.

        Without a photo the picture is a gradient. Raises UnreadablePhoto.
        """
        width, height = SIZES[ratio]
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        chance = random.Random(f"{prompt}/{number}")
        if photo_base64 is None:
            image = _gradient(size, chance)
        else:
            look = LOOKS[(len(prompt) + number) % len(LOOKS)]
            image = look(self.source(photo_base64, size), chance)
        _caption(image, f"#{number}  {' '.join(prompt.split())[:48]}")
        return _encode(image, mime_type)
