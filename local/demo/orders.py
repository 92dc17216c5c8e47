"""The demo's orders, chosen so that every path of a job occurs, and the faults that cause them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from local.demo.pace import Pace
from worker.jobs import Job

BUCKET = "training-photos"
PORTRAIT, PALACE, FLOWER, GONE = "portrait.jpg", "palace.jpg", "flower.jpg", "deleted.jpg"
TRAINING = PORTRAIT


@dataclass(frozen=True, slots=True)
class Example:
    """One example image to be redone: a job, known by `id`. `photo` names a source photo."""

    id: str
    photo: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Order:
    """One call of `generate_images`; `images` are made of each example."""

    aspect_ratio: str
    images: int
    base_prompt: str
    examples: tuple[Example, ...]
    training: tuple[str, ...] = field(default=(TRAINING,))

    def body(self, folder: str) -> dict[str, Any]:
        """The request's JSON; `folder` (`bucket/user`) has the source photos."""
        return {
            "basePrompt": self.base_prompt,
            "aspectRatio": self.aspect_ratio,
            "numImagesPerExample": self.images,
            "trainingImageUrls": [f"{folder}/{name}" for name in self.training],
            "exampleImages": [
                {"id": example.id, "url": f"{folder}/{example.photo}", "prompt": example.prompt}
                for example in self.examples
            ],
        }

    def jobs(self) -> list[Job]:
        """The order's jobs as a worker would see them, for the calls without a queue; photos by name."""
        return [
            Job(
                id=0,
                batch_id="",
                user_id="",
                user_folder="",
                fence="",
                attempt=1,
                max_attempts=1,
                example_image_url=example.photo,
                example_image_prompt=example.prompt,
                training_image_urls=self.training,
                base_prompt=self.base_prompt,
                aspect_ratio=self.aspect_ratio,
                num_images=self.images,
                missing=tuple(range(self.images)),
            )
            for example in self.examples
        ]


STUDIO = Example("studio", PORTRAIT, "A studio portrait, soft light from the left.")
DAHLIA = Example("dahlia", FLOWER, "Among dahlias, shallow depth of field.")
LAKE = Example("lake", PALACE, "By the lake in the morning, before the visitors come.")
TALL = Example("tall", PORTRAIT, "Upright, as the background of a phone.")
STAIRS = Example("stairs", PALACE, "On the stairs below the pagoda, late afternoon.")
DELETED = Example("deleted", GONE, "The example photo was deleted after it had been ordered.")
MORNING = Example("morning", PALACE, "A wide panorama, mist over the water.")
GARDEN = Example("garden", FLOWER, "Wide, a garden in bloom on both sides.")
POSTER = Example("poster", PORTRAIT, "Exactly like the poster of a film that everybody knows.")

DEMO = (
    Order("1:1", 4, "A profile picture.", (STUDIO, DAHLIA, LAKE)),
    Order("9:16", 3, "A picture for a story.", (TALL, STAIRS, DELETED)),
    Order("16:9", 3, "A title picture.", (MORNING, GARDEN, POSTER)),
)
REAL = (
    Order("1:1", 1, "A profile picture.", (STUDIO,)),
    Order("9:16", 1, "A picture for a story.", (STAIRS,)),
    Order("16:9", 1, "A title picture.", (GARDEN,)),
)


def images(orders: Sequence[Order]) -> int:
    """How many images are ordered in all."""
    return sum(order.images * len(order.examples) for order in orders)


def faults(pace: Pace) -> list[dict[str, Any]]:
    """The simulator's rules for DEMO: one overload, one 429 with RetryInfo, and a prompt always refused."""
    quota = {"kind": "quota", "shape": "full", "limit": pace.quota, "retry_seconds": pace.retry_info_seconds}
    return [
        {"match": {"prompt": DAHLIA.prompt}, "times": 1, "answer": {"kind": "error", "code": 503}},
        {"match": {"prompt": MORNING.prompt}, "times": 1, "answer": quota},
        {"match": {"prompt": POSTER.prompt}, "answer": {"kind": "finish", "reason": "IMAGE_RECITATION"}},
    ]
