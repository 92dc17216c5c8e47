"""What the photo app does for a signed-in customer: uploads source photos, orders, downloads the results."""

import asyncio
import io
import secrets
from collections.abc import Mapping
from urllib.parse import quote

import httpx
from PIL import Image

from local.demo.environment import on_loopback
from local.demo.orders import BUCKET, FLOWER, PALACE, PORTRAIT, Order
from local.demo.photographs import photographs
from local.stack.errors import StackError
from local.stack.stack import Stack

SOURCES = {PORTRAIT: "astronaut.png", PALACE: "china.jpg", FLOWER: "flower.jpg"}
LONGEST_SIDE = 1024


def source_photos() -> dict[str, bytes]:
    """The photographs under the names that orders use, as JPEG of at most LONGEST_SIDE pixels."""
    files = photographs()
    return {name: jpeg(files[file].read_bytes(), LONGEST_SIDE) for name, file in SOURCES.items()}


def jpeg(data: bytes, longest_side: int) -> bytes:
    """The picture as JPEG, made smaller if a side is longer (in pixels)."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((longest_side, longest_side))
        image.convert("RGB").save(out, "JPEG", quality=88)
    return out.getvalue()


class Customer:
    """Acts with a user's own token; only making the bucket and filling it take the service's key."""

    def __init__(self, http: httpx.AsyncClient, stack: Stack, user_id: str, token: str) -> None:
        self._http, self._stack, self._token = http, stack, token
        self._url = on_loopback(stack.url)
        self.id = user_id
        self.folder = f"{BUCKET}/{user_id}"

    async def upload(self, photos: Mapping[str, bytes]) -> None:
        """Uploads source photos to the customer's folder, replacing existing ones."""
        await self._make_bucket()
        for name, data in photos.items():
            answer = await self._http.post(
                f"{self._url}/storage/v1/object/{self.folder}/{name}",
                content=data,
                headers={"apikey": self._stack.secret_key, "content-type": "image/jpeg", "x-upsert": "true"},
            )
            _expect(answer, 200)

    async def order(self, function_url: str, order: Order) -> str:
        """Sends an order to `generate_images` and returns the batch's id."""
        answer = await self._http.post(
            on_loopback(function_url),
            json=order.body(self.folder),
            headers={"Authorization": f"Bearer {self._token}", "Idempotency-Key": secrets.token_hex(16)},
        )
        return str(_expect(answer, 202).json()["batchId"])

    async def download(self, paths: list[str]) -> dict[str, bytes]:
        """The customer's generated photos by storage path, four at a time."""
        places = asyncio.Semaphore(4)

        async def one(path: str) -> bytes:
            async with places:
                answer = await self._http.get(
                    f"{self._url}/storage/v1/object/generated-photos/{quote(path)}",
                    headers={
                        "apikey": self._stack.publishable_key,
                        "Authorization": f"Bearer {self._token}",
                    },
                )
                return _expect(answer, 200).content

        return dict(zip(paths, await asyncio.gather(*map(one, paths)), strict=True))

    async def _make_bucket(self) -> None:
        answer = await self._http.post(
            f"{self._url}/storage/v1/bucket",
            json={"id": BUCKET, "name": BUCKET, "public": False},
            headers={"apikey": self._stack.secret_key},
        )
        if "already exists" not in answer.text:
            _expect(answer, 200)


def _expect(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        happened = f"{answer.request.method} {answer.request.url} answered {answer.status_code}:"
        raise StackError(happened, "The logs in the stack's folder say more.", answer.text[:2000])
    return answer
