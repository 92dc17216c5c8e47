"""Enqueue: every field is checked before anything is written, and one key gives one batch."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from postgrest.exceptions import APIError
from supabase import AsyncClient

from tests.conftest import User
from tests.queue_invariants import check_invariants
from tests.queue_sql import Connection, Queue, blocked, order, refused

pytest_plugins = ("tests.queue_fixtures",)

TABLES = ("photo_generation_batches", "photo_generation_queue", "generation.idempotency_keys", "generation.flows")
RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
PHOTO = "https://photos.example.com/a.jpg"

# field: the value refused, the reason, and the name the message must use
WRONG: list[tuple[str, object, str, str]] = [
    ("basePromt", "x", "unknown_field", "basePromt"),
    ("basePrompt", None, "missing", "basePrompt"),
    ("basePrompt", " \n\t", "empty", "basePrompt"),
    ("basePrompt", "x" * 4001, "too_long", "basePrompt"),
    ("basePrompt", 7, "wrong_type", "basePrompt"),
    ("basePrompt", ["x"], "wrong_type", "basePrompt"),
    ("basePrompt", "a\x07b", "control_characters", "basePrompt"),
    ("aspectRatio", "7:3", "unsupported_aspect_ratio", "aspectRatio"),
    ("aspectRatio", "1:1; drop", "unsupported_aspect_ratio", "aspectRatio"),
    ("aspectRatio", 1, "wrong_type", "aspectRatio"),
    ("numImagesPerExample", 0, "out_of_range", "numImagesPerExample"),
    ("numImagesPerExample", -1, "out_of_range", "numImagesPerExample"),
    ("numImagesPerExample", 11, "out_of_range", "numImagesPerExample"),
    ("numImagesPerExample", 10**30, "out_of_range", "numImagesPerExample"),
    ("numImagesPerExample", 1.5, "wrong_type", "numImagesPerExample"),
    ("numImagesPerExample", "4", "wrong_type", "numImagesPerExample"),
    ("numImagesPerExample", True, "wrong_type", "numImagesPerExample"),
    ("exampleImages", None, "out_of_range", "exampleImages"),
    ("exampleImages", [], "out_of_range", "exampleImages"),
    ("exampleImages", [{"url": PHOTO}] * 101, "out_of_range", "exampleImages"),
    ("exampleImages", {"url": PHOTO}, "wrong_type", "exampleImages"),
    ("exampleImages", [PHOTO], "wrong_type", "exampleImages[0]"),
    ("exampleImages", [{"url": PHOTO}, {"prompt": "x"}], "missing", "exampleImages[1].url"),
    ("exampleImages", [{"url": PHOTO, "ulr": "x"}], "unknown_field", "exampleImages[0]"),
    ("exampleImages", [{"url": PHOTO, "prompt": "x" * 4001}], "too_long", "exampleImages[0].prompt"),
    ("exampleImages", [{"url": PHOTO, "id": 7}], "wrong_type", "exampleImages[0].id"),
    ("exampleImages", [{"url": "https://10.0.0.1/a"}], "forbidden_address", "exampleImages[0].url"),
    ("trainingImageUrls", None, "out_of_range", "trainingImageUrls"),
    ("trainingImageUrls", [], "out_of_range", "trainingImageUrls"),
    ("trainingImageUrls", [PHOTO] * 14, "out_of_range", "trainingImageUrls"),
    ("trainingImageUrls", PHOTO, "wrong_type", "trainingImageUrls"),
    ("trainingImageUrls", [PHOTO, None], "missing", "trainingImageUrls[1]"),
    ("trainingImageUrls", [PHOTO, 3], "wrong_type", "trainingImageUrls[1]"),
    ("trainingImageUrls", ["https://a.example/" + "x" * 2048], "too_long", "trainingImageUrls[0]"),
    ("glasses", 3, "wrong_type", "glasses"),
    ("hairColor", "x" * 201, "too_long", "hairColor"),
    ("hairStyle", {}, "wrong_type", "hairStyle"),
    ("backgrounds", "beach", "wrong_type", "backgrounds"),
    ("backgrounds", ["x"] * 11, "out_of_range", "backgrounds"),
    ("styles", ["ok", ""], "empty", "styles[1]"),
    ("userId", None, "missing", "userId"),
    ("userId", "", "empty", "userId"),
    ("priority", 101, "out_of_range", "priority"),
    ("priority", -101, "out_of_range", "priority"),
    ("maxAttempts", 0, "out_of_range", "maxAttempts"),
    ("maxAttempts", 21, "out_of_range", "maxAttempts"),
]

WRONG_PHOTOS = [
    ("http://photos.example.com/a.jpg", "not_https"),
    ("HTTPS://photos.example.com/a.jpg", "not_https"),
    ("ftp://photos.example.com/a.jpg", "not_https"),
    ("file:///etc/passwd", "not_https"),
    ("data:image/png;base64,AAAA", "not_https"),
    ("https://127.0.0.1/a.jpg", "forbidden_address"),
    ("https://169.254.169.254/latest", "forbidden_address"),
    ("https://93.184.216.34/a.jpg", "forbidden_address"),
    ("https://[::1]/a.jpg", "forbidden_address"),
    ("https://2130706433/a.jpg", "forbidden_address"),
    ("https://0x7f000001/a.jpg", "forbidden_address"),
    ("https://127.1/a.jpg", "forbidden_address"),
    ("https://localhost/a.jpg", "forbidden_address"),
    ("https://box.local/a.jpg", "forbidden_address"),
    ("https://metadata.google.internal/a", "forbidden_address"),
    ("https://internal./a.jpg", "forbidden_address"),
    ("https://user:pass@example.com/a.jpg", "forbidden_address"),
    ("https://example.com:8080/a.jpg", "forbidden_address"),
    ("https://example.com\\@10.0.0.1/a.jpg", "forbidden_address"),
    ("https:///a.jpg", "forbidden_address"),
    ("training-photos/user-2/me.jpg", "foreign_photo"),
    ("private-things/user-1/me.jpg", "forbidden_bucket"),
    ("training-photos/user-1/../user-2/me.jpg", "bad_reference"),
    ("training-photos/user-1/%2e%2e/me.jpg", "bad_reference"),
    ("training-photos/user-1//me.jpg", "bad_reference"),
    ("training-photos/user-1/./me.jpg", "bad_reference"),
    ("training-photos\\user-1\\me.jpg", "bad_reference"),
    ("training-photos/user-1/me.jpg?x=1", "bad_reference"),
    ("training-photos/user-1/", "bad_reference"),
    ("/training-photos/user-1/me.jpg", "bad_reference"),
    ("me.jpg", "bad_reference"),
]


def counts(db: Connection) -> dict[str, int]:
    """How many rows the tables have that an order writes."""
    return {table: Queue(db).one(f"select count(*) as n from {table}")["n"] for table in TABLES}


@pytest.mark.parametrize(("field", "value", "reason", "named"), WRONG)
def test_wrong_fields(queue: Queue, field: str, value: object, reason: str, named: str) -> None:
    """What is wrong with an order is named by field and reason, and nothing is written."""
    before = counts(queue.connection)
    with refused("400", reason, named):
        queue.enqueue(**{"user_id": "user-1", field: value})
    assert counts(queue.connection) == before


@pytest.mark.parametrize(("reference", "reason"), WRONG_PHOTOS)
def test_wrong_photos(queue: Queue, reference: str, reason: str) -> None:
    """A photo must lie at a public https name or in the user's own folder of an allowed bucket."""
    with refused("400", reason, "trainingImageUrls[0]"):
        queue.enqueue(trainingImageUrls=[reference])
    assert set(counts(queue.connection).values()) == {0}


@pytest.mark.parametrize("request_body", [None, [], "text", 3])
def test_no_order(queue: Queue, request_body: object) -> None:
    """An order is a JSON object."""
    with refused("400", "wrong_type", "request"):
        queue.connection.execute(
            "select enqueue_generation_batch(%s::jsonb)",
            [None if request_body is None else str(request_body if request_body != "text" else '"text"')],
        )


@pytest.mark.parametrize("key", ["", " ", "x" * 201])
def test_wrong_keys(queue: Queue, key: str) -> None:
    """An idempotency key is 1 to 200 characters."""
    with refused("400", "too_long" if len(key) > 1 else "empty", "idempotency key"):
        queue.call("enqueue_generation_batch", p_request=order(), p_idempotency_key=key)


@pytest.mark.parametrize(
    "reference",
    [
        PHOTO,
        "https://photos.example.com:443/a.jpg?size=large#top",
        "https://xn--bcher-kva.example/a%20b.jpg",
        "training-photos/user-1/folder/me..jpg",
        "generated-photos/user-1/batch/1/0-abc",
    ],
)
def test_right_photos(queue: Queue, reference: str) -> None:
    """What a worker can fetch is accepted as it was written."""
    queue.enqueue(trainingImageUrls=[reference])
    assert queue.one("select * from photo_generation_queue")["trainingImageUrls"] == [reference]


@pytest.mark.parametrize("ratio", RATIOS)
def test_ratios(queue: Queue, ratio: str) -> None:
    """Every aspect ratio of Gemini's image models is accepted."""
    queue.enqueue(aspectRatio=ratio)
    assert queue.one("select * from photo_generation_queue")["aspectRatio"] == ratio


def test_limits(queue: Queue) -> None:
    """The largest order there is goes through."""
    photos = [f"https://photos.example.com/{i}" for i in range(13)]
    answer = queue.enqueue(examples=100, images=10, basePrompt="é" * 4000, trainingImageUrls=photos, maxAttempts=20)
    assert (answer["jobsEnqueued"], answer["imagesEnqueued"], len(answer["jobIds"])) == (100, 1000, 100)
    check_invariants(queue.connection)


def test_defaults(queue: Queue) -> None:
    """An order of only what is required gets four square photos, five attempts and no style."""
    request = order()
    del request["numImagesPerExample"]
    answer = queue.call("enqueue_generation_batch", p_request=request)
    row = queue.job(answer["jobIds"][0])
    assert (row["aspectRatio"], row["numImagesPerExample"], row["maxAttempts"], row["priority"]) == ("1:1", 4, 5, 0)
    assert (row["glasses"], row["hairColor"], row["hairStyle"], row["exampleImagePrompt"]) == (None,) * 4
    assert (row["status"], row["attempts"], row["backgrounds"], row["styles"]) == ("pending", 0, [], [])
    assert queue.batch(answer["batchId"])["imagesTotal"] == 4


def test_everything_stored(queue: Queue) -> None:
    """What was ordered arrives in the rows, trimmed, the examples in their order."""
    examples = [{"id": f"e{i}", "url": PHOTO, "prompt": f" prompt {i} "} for i in range(3)]
    style: dict[str, Any] = {"hairColor": "red", "hairStyle": "long", "backgrounds": ["sea"], "styles": ["film", "old"]}
    answer = queue.enqueue(exampleImages=examples, priority=-3, maxAttempts=2, glasses="  round ", **style)
    rows = [queue.job(job_id) for job_id in answer["jobIds"]]
    assert [row["exampleImagePrompt"] for row in rows] == ["prompt 0", "prompt 1", "prompt 2"]
    assert [row["exampleImageId"] for row in rows] == ["e0", "e1", "e2"]
    assert {key: rows[0][key] for key in style} == style
    assert (rows[0]["glasses"], rows[0]["priority"], rows[0]["maxAttempts"]) == ("round", -3, 2)
    assert queue.run().claim()[0]["glasses"] == "round"


@pytest.mark.parametrize(("said", "stored"), [(True, "true"), (False, "false"), ("none", "none"), (None, None)])
def test_glasses(queue: Queue, said: object, stored: object) -> None:
    """Glasses may be a yes or no as well as words."""
    queue.enqueue(glasses=said)
    assert queue.one("select * from photo_generation_queue")["glasses"] == stored


def test_allowed_buckets_are_rows(queue: Queue) -> None:
    """A bucket that the operator adds is allowed at once."""
    queue.connection.execute("insert into generation.photo_buckets values ('selfies')")
    queue.enqueue(trainingImageUrls=["selfies/user-1/me.jpg"])


def test_same_key_same_answer(queue: Queue) -> None:
    """The same key and request give the first batch again, whatever the order of its fields."""
    request = order()
    first = queue.call("enqueue_generation_batch", p_request=request, p_idempotency_key="k")
    again = dict(reversed(request.items()))
    second = queue.call("enqueue_generation_batch", p_request=again, p_idempotency_key="k")
    assert first["created"] and second == first | {"created": False}
    assert counts(queue.connection)["photo_generation_batches"] == 1


def test_same_key_other_request(queue: Queue) -> None:
    """A key used for another request is a conflict and changes nothing; another user's key is another key."""
    queue.call("enqueue_generation_batch", p_request=order(), p_idempotency_key="k")
    before = counts(queue.connection)
    with refused("409", "idempotency_key_reused"):
        queue.call("enqueue_generation_batch", p_request=order(images=2), p_idempotency_key="k")
    assert counts(queue.connection) == before
    assert queue.call("enqueue_generation_batch", p_request=order("user-2"), p_idempotency_key="k")["created"]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_same_key_at_once(queue: Queue, another: Callable[[], Queue], ends: str) -> None:
    """A repeated request waits for the first: it gets its batch, or makes one if the first was rolled back."""

    def enqueue(on: Queue) -> Any:
        return on.call("enqueue_generation_batch", p_request=order(), p_idempotency_key="k")

    watcher = another()
    queue.connection.execute("begin")
    first = enqueue(queue)
    with blocked(another(), enqueue, watcher) as second:
        queue.connection.execute(ends)
        answer = second.result()
    assert answer["created"] is (ends == "rollback")
    assert (answer["batchId"] == first["batchId"]) is (ends == "commit")
    assert counts(queue.connection)["photo_generation_batches"] == 1


async def test_users_order_for_themselves(
    db: Connection, user: Callable[[], Awaitable[User]], service: AsyncClient
) -> None:
    """A signed-in user's order is theirs by their token; the service role names the user."""
    someone = await user()
    request = order(someone.id)
    answer = await service.rpc("enqueue_generation_batch", {"p_request": request}).execute()
    own = {key: value for key, value in request.items() if key != "userId"}
    await someone.client.rpc("enqueue_generation_batch", {"p_request": own}).execute()
    owners = db.execute('select distinct "userId" as id, count(*) as n from photo_generation_batches group by 1')
    assert answer.data["jobsEnqueued"] == 1
    assert owners.fetchall() == [{"id": someone.id, "n": 2}]


@pytest.mark.parametrize(("field", "value"), [("userId", "user-2"), ("priority", 5), ("maxAttempts", 20)])
async def test_users_cannot_set(
    db: Connection, user: Callable[[], Awaitable[User]], field: str, value: object
) -> None:
    """A signed-in user cannot order for others, jump the queue or buy attempts."""
    someone = await user()
    request = {key: value for key, value in order(someone.id).items() if key != "userId"} | {field: value}
    with pytest.raises(APIError) as caught:
        await someone.client.rpc("enqueue_generation_batch", {"p_request": request}).execute()
    assert (caught.value.code, caught.value.details) == ("PT400", "not_yours_to_set")
    assert field in str(caught.value.message)
    assert set(counts(db).values()) == {0}
