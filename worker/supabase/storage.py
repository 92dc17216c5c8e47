"""The Storage adapter: stores generated images, reads source photos, removes orphaned objects.

Objects are never overwritten. The only module that handles storage3's errors.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import quote

from worker.common.deadline import Within
from worker.errors import (
    BadInput,
    GenerationError,
    Misconfigured,
    PhotoBucketMissing,
    PhotoUnreadable,
    QueueUnavailable,
    Transient,
)
from worker.jobs import GeneratedImage, Job, Usage
from worker.photos.download import refuse_compressed, stated_bytes, too_large
from worker.photos.image_info import inspect
from worker.supabase.bucket import MAX_IMAGE_BYTES, read_bucket
from worker.supabase.client import Project
from worker.supabase.retry import call_with_retry
from worker.supabase.storage_errors import (
    OF_ALL_PHOTOS,
    ObjectExists,
    ObjectMissing,
    StorageAnswer,
    meaning,
    read,
)

BUCKET = "generated-photos"
TRIES = 3

STORE_TRIES = 10
"""As many as fit into the time for storing, because the image has been paid for."""

OBJECT_NAME = re.compile(r"(\d{1,3})-[0-9a-f]{16}")
UNKNOWN_MODEL = "unknown"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An object in a job's folder, and the data for its row."""

    path: str
    photo: Mapping[str, Any]


def object_path(job: Job, index: int, data: bytes) -> str:
    """`{user}/{batch}/{job}/{index}-{first 16 hex digits of sha256}`: the same bytes get the same name."""
    return f"{job.folder}/{index}-{hashlib.sha256(data).hexdigest()[:16]}"


def photo_row(path: str, image: GeneratedImage) -> dict[str, Any]:
    """The parameter of `record_generated_photo`; also stored as the object's metadata, for recovery."""
    return {
        "storagePath": path,
        "mimeType": image.mime_type,
        "width": image.width,
        "height": image.height,
        "bytes": len(image.data),
        "model": image.usage.model,
        "promptTokens": image.usage.prompt_tokens,
        "outputTokens": image.usage.output_tokens,
        "generationMs": image.usage.generation_ms,
    }


class PhotoStore:
    """The private bucket of generated photos, and any bucket's source photos."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def check(self, within: Within) -> None:
        """Raise Misconfigured if the bucket would refuse Gemini's images; also raises QueueUnavailable."""
        if refusal := (await read_bucket(self._project, BUCKET, within)).refusal:
            raise Misconfigured(
                "bucket_refuses_images", f"{refusal}: apply sql/install.sql, which repairs it"
            )

    async def put(self, path: str, image: GeneratedImage, within: Within) -> None:
        """Store an image under a name derived from its bytes; an existing object is success."""

        async def attempt() -> None:
            with translated("upload"):
                await self._bucket().upload(
                    path,
                    image.data,
                    {"content-type": image.mime_type, "metadata": photo_row(path, image)},
                )

        try:
            await call_with_retry(attempt, "Storage: upload", within, STORE_TRIES)
        except ObjectExists:
            return

    async def signed_url(self, path: str, seconds: int, within: Within) -> str:
        """A URL at which anyone can read an object for `seconds`."""

        async def attempt() -> str:
            with translated("sign"):
                return str((await self._bucket().create_signed_url(path, seconds))["signedURL"])

        return await call_with_retry(attempt, "Storage: sign", within, TRIES)

    async def remove(self, path: str, within: Within) -> None:
        """Remove an object that the database rejected; a missing object is success."""

        async def attempt() -> None:
            with translated("remove"):
                await self._bucket().remove([path])

        await call_with_retry(attempt, "Storage: remove", within, TRIES)

    async def stored(self, job: Job, within: Within) -> dict[int, StoredImage]:
        """The missing images that earlier claims stored in the job's folder, by index; one for each."""

        async def attempt() -> dict[int, StoredImage]:
            found: dict[int, StoredImage] = {}
            for index, path in await self._listed(job):
                wanted = index in job.missing and index not in found
                if wanted and (row := await self._describe(path)):
                    found[index] = StoredImage(path, row)
            return found

        return await call_with_retry(attempt, "Storage: list", within, TRIES)

    async def _listed(self, job: Job) -> list[tuple[int, str]]:
        """Index and path of every object in the job's folder whose name matches OBJECT_NAME."""
        with translated("list"):
            listing = await self._bucket().list(f"{job.folder}/", {"limit": 1000})
        # Supabase returns names relative to the folder, other servers full paths.
        names = sorted(str(entry["name"]).rsplit("/", 1)[-1] for entry in listing)
        matches = [match for name in names if (match := OBJECT_NAME.fullmatch(name))]
        return [(int(match[1]), f"{job.folder}/{match[0]}") for match in matches]

    async def _describe(self, path: str) -> Mapping[str, Any] | None:
        """The row data of a stored object, from its metadata, or from its bytes if it has no metadata.

        None if it is not an image, or was removed since the listing by a worker whose image was rejected.
        """
        try:
            with translated("info"):
                info = await self._bucket().info(path)
            return _kept_row(info, path) or _read_row(
                await self.download(BUCKET, path, MAX_IMAGE_BYTES), path
            )
        except (ObjectMissing, BadInput):
            return None

    async def download(self, bucket: str, path: str, max_bytes: int) -> bytes:
        """Read an object of at most `max_bytes`; refuses an answer with a compressed encoding.

        Raises BadInput (missing, too large, compressed), Transient, Misconfigured (affects all photos),
        PhotoUnreadable (affects this photo).

        Uses the authenticated route, because the other one reports an invalid key as a missing bucket.
        """
        import httpx

        url = f"{self._project.url}/storage/v1/object/authenticated/{quote(bucket)}/{quote(path)}"
        headers = self._project.headers() | {"Accept-Encoding": "identity"}
        data = BytesIO()  # a bytearray would be copied at the end
        try:
            async with self._project.http.stream("GET", url, headers=headers) as response:
                if response.status_code != 200:
                    answer = read(response.status_code, await response.aread())
                    raise _download_error(answer, bucket, path)
                refuse_compressed(_shown(path), response.headers.get("content-encoding", ""))
                if stated_bytes(response.headers.get("content-length", "")) > max_bytes:
                    raise too_large(_shown(path), max_bytes)
                async for chunk in response.aiter_raw():
                    data.write(chunk)
                    if data.tell() > max_bytes:
                        raise too_large(_shown(path), max_bytes)
        except httpx.HTTPError as exc:
            raise Transient("photo_host_unavailable", f"{_shown(path)}: {type(exc).__name__}") from exc
        except Misconfigured as error:
            if error.code in OF_ALL_PHOTOS:
                raise
            raise _unreadable(error, bucket, path) from error
        return data.getvalue()

    def _bucket(self) -> Any:
        return self._project.storage.from_(BUCKET)


def _kept_row(info: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The row data in an object's metadata, if it belongs to this object."""
    for key in ("user_metadata", "metadata"):
        kept = info.get(key)
        if isinstance(kept, str):
            kept = json.loads(kept)
        if isinstance(kept, dict) and kept.get("storagePath") == path:
            return kept
    return None


def _read_row(data: bytes, path: str) -> Mapping[str, Any] | None:
    """The row data derived from an object's bytes; None if they are not an image."""
    try:
        read = inspect(data)
    except ValueError:
        return None
    usage = Usage(model=UNKNOWN_MODEL)
    return photo_row(path, GeneratedImage(data, read.mime_type, read.width, read.height, usage))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate errors of storage3 and its HTTP client; `storage_errors` has the table."""
    import httpx
    from pydantic import ValidationError
    from storage3.exceptions import StorageApiError

    try:
        yield
    except StorageApiError as exc:
        raise meaning(_answer(exc), f"{what} in bucket {BUCKET}") from exc
    except (httpx.HTTPError, httpx.InvalidURL, ValidationError, ValueError, KeyError) as exc:
        raise QueueUnavailable("unreachable", f"Storage: {what}: {type(exc).__name__}") from exc


def _answer(exc: Any) -> StorageAnswer:
    """The HTTP answer behind storage3's error, which does not keep the HTTP status and code."""
    import httpx

    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError):
            return read(cause.response.status_code, cause.response.content)
        cause = cause.__cause__ or cause.__context__
    status = int(exc.status) if str(exc.status).isdigit() else 0
    return StorageAnswer(status, frozenset({str(exc.code), str(exc.message)}))


def _download_error(answer: StorageAnswer, bucket: str, path: str) -> GenerationError:
    """Translate a failed download: a missing object is bad input; project and transient errors are not."""
    error = meaning(answer, f"read from bucket {bucket}")
    if error.code == "bucket_missing" and bucket != BUCKET:
        fix = "create it, or delete its row from generation.photo_buckets; if it exists, check"
        message = f"the photo bucket {bucket} does not exist: {fix} SUPABASE_SERVICE_ROLE_KEY"
        return PhotoBucketMissing(error.code, message)
    if isinstance(error, ObjectMissing):
        return BadInput(error.code, f"{_shown(path)}: photo not found")
    if isinstance(error, QueueUnavailable):
        message = f"{_shown(path)}: Storage is temporarily unavailable ({answer.shown})"
        return Transient("photo_host_unavailable", message)
    return error


def _unreadable(error: Misconfigured, bucket: str, path: str) -> PhotoUnreadable:
    """The operator's message does not have the photo's name, which is customer data."""
    message = (
        f"a photo in bucket {bucket} could not be read, possibly because of its name: {error.message}; "
        "if other photos can be read, check the rules of the firewall or proxy in front of Supabase"
    )
    return PhotoUnreadable("photo_unreadable", message, _shown(path))


def _shown(path: str) -> str:
    return path.rsplit("/", 1)[-1][:80]
