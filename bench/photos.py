"""The bytes of large photos that Gemini gets, and the processor time to scale them down.

Photos of 12 megapixels, like those of phones: runs of jobs with three photos of their own, and of a batch
whose examples share the photos of the person. Each case runs three times; the medians count.
"""

from __future__ import annotations

import io
import json
import statistics
from argparse import ArgumentParser, Namespace
from functools import partial

from PIL import Image, ImageChops

from bench.harness.scale import Scale
from bench.harness.site import IMAGES_PER_JOB, Site
from bench.memory import Case, repeated
from local.demo.photographs import photographs

PURPOSE = "bytes sent and processor time per image, with photos of 12 megapixels; about two minutes"
USER = "customer"
SIZE = (4032, 3024)
JOBS = 5
EXAMPLES = 8


def add_arguments(parser: ArgumentParser) -> None:
    """Add the part's options."""
    parser.add_argument("--brief", action="store_true", help="the same: it is brief")
    parser.set_defaults(measure=measure)


def measure(_options: Namespace) -> None:
    """Do the runs; the last line is JSON."""
    photos = [_photo(name) for name in ("astronaut.png", "china.jpg", "flower.jpg")]
    size = sum(map(len, photos)) / len(photos)
    with Site(Scale(6.0), (USER,)) as site:
        print(site.hardware(), flush=True)
        base = statistics.median(Case(0, repeated(site, 0)).milliseconds) / 1000
        own = Case(
            JOBS * IMAGES_PER_JOB, repeated(site, JOBS * IMAGES_PER_JOB, partial(_own, site, photos)), base
        )
        calls = site.simulator.ledger()
        ratio = statistics.mean(call.bytes_in * 0.75 / (3 * size) for call in calls)
        print(
            f"{JOBS} jobs, three photos of {size / 1e6:.1f} MB each: {own}; {ratio:.3f} of the bytes are sent"
        )
        images = EXAMPLES * IMAGES_PER_JOB
        shared = Case(images, repeated(site, images, partial(_shared, site, photos)), base)
        print(f"a batch of {EXAMPLES} examples that share two photos: {shared}", flush=True)
    print(json.dumps({
        "bytes_ratio": round(ratio, 3),
        "cpu_seconds_own": round(statistics.median(own.milliseconds) / 1000, 4),
        "cpu_seconds_shared": round(statistics.median(shared.milliseconds) / 1000, 4),
    }), flush=True)  # fmt: skip


def _photo(name: str) -> bytes:
    """A photo like a phone's: 12 megapixels, with sensor noise."""
    with Image.open(photographs()[name]) as found:
        large = found.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    noise = Image.effect_noise(SIZE, 12).convert("RGB")
    out = io.BytesIO()
    ImageChops.add(large, noise, 1, -128).save(out, "JPEG", quality=85)
    return out.getvalue()


def _uploaded(site: Site, photo: bytes, name: str) -> str:
    """Upload the photo, made unique by bytes after the JPEG's end."""
    return site.upload(USER, name, photo + name.encode())


def _own(site: Site, photos: list[bytes]) -> None:
    for number in range(JOBS):
        example, *training = [_uploaded(site, photo, f"{number}-{at}.jpg") for at, photo in enumerate(photos)]
        site.enqueue(USER, [{"url": example, "prompt": f"number {number}"}], training, IMAGES_PER_JOB)


def _shared(site: Site, photos: list[bytes]) -> None:
    example, *training = [_uploaded(site, photo, f"shared-{at}.jpg") for at, photo in enumerate(photos)]
    examples = [{"url": example, "prompt": "the first"}]
    for number in range(1, EXAMPLES):
        url = _uploaded(site, photos[0], f"example-{number}.jpg")
        examples.append({"url": url, "prompt": f"number {number}"})
    site.enqueue(USER, examples, training, IMAGES_PER_JOB)
