"""Enqueue: every field is checked before anything is written, and one key gives one batch."""

from typing import Any

import psycopg
import pytest

from tests.sql.test_callers import acting
from tests.support.queue_invariants import check_invariants
from tests.support.queue_sql import Queue, order, refused

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
    ("exampleImages", [{"url": PHOTO, "id": 7}], "wrong_type", "exampleImages[0]"),
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
    ("training-photos/user-1", "bad_reference"),
    ("/training-photos/user-1/me.jpg", "bad_reference"),
    ("me.jpg", "bad_reference"),
]


@pytest.mark.parametrize(("field", "value", "reason", "named"), WRONG)
def test_a_wrong_field_is_named_with_its_reason_and_nothing_is_written(
    queue: Queue, field: str, value: object, reason: str, named: str
) -> None:
    """For each field of an order."""
    before = queue.written()
    with refused("400", reason, named):
        queue.call("enqueue_generation_batch", p_request=order() | {field: value})
    assert queue.written() == before


@pytest.mark.parametrize(("reference", "reason"), WRONG_PHOTOS)
def test_a_photo_must_be_on_a_public_https_host_or_in_the_users_folder(
    queue: Queue, reference: str, reason: str
) -> None:
    """The bucket must be an allowed one."""
    with refused("400", reason, "trainingImageUrls[0]"):
        queue.enqueue(trainingImageUrls=[reference])
    assert set(queue.written().values()) == {0}


def hint_of(queue: Queue, request: dict[str, object]) -> str:
    with pytest.raises(psycopg.Error) as caught:
        queue.call("enqueue_generation_batch", p_request=request)
    return str(caught.value.diag.message_hint)


def test_a_path_without_the_users_folder_is_answered_with_the_right_shape(queue: Queue) -> None:
    """For bucket/file, the hint names the user's folder that belongs between them."""
    assert "bucket/user-1/file" in hint_of(queue, order() | {"trainingImageUrls": ["training-photos/me.jpg"]})


def test_an_unknown_field_is_answered_with_those_that_the_caller_may_set(queue: Queue) -> None:
    """A signed-in user is not pointed to fields that the next answer would forbid; a server is."""
    request = order() | {"numImages": 2}
    assert "userId, priority, maxAttempts" in hint_of(queue, request)
    del request["userId"]
    with acting(queue.connection, "authenticated", "user-1"):
        hint = hint_of(queue, request)
    assert "numImagesPerExample" in hint
    assert "userId" not in hint and "maxAttempts" not in hint


@pytest.mark.parametrize("request_body", [None, [], "text", 3])
def test_an_order_must_be_a_json_object(queue: Queue, request_body: object) -> None:
    """Anything else is refused."""
    with refused("400", "wrong_type", "request"):
        queue.connection.execute(
            "select enqueue_generation_batch(%s::jsonb)",
            [None if request_body is None else str(request_body if request_body != "text" else '"text"')],
        )


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
def test_an_allowed_photo_reference_is_stored_unchanged(queue: Queue, reference: str) -> None:
    """Anything a worker can fetch."""
    queue.enqueue(trainingImageUrls=[reference])
    assert queue.one("select * from photo_generation_queue")["trainingImageUrls"] == [reference]


@pytest.mark.parametrize("ratio", RATIOS)
def test_every_aspect_ratio_of_geminis_image_models_is_accepted(queue: Queue, ratio: str) -> None:
    """The list is Google's."""
    queue.enqueue(aspectRatio=ratio)
    assert queue.one("select * from photo_generation_queue")["aspectRatio"] == ratio


def test_an_order_at_every_limit_is_accepted(queue: Queue) -> None:
    """The largest possible order goes through."""
    photos = [f"https://photos.example.com/{i}" for i in range(13)]
    answer = queue.enqueue(
        examples=100, images=10, basePrompt="é" * 4000, trainingImageUrls=photos, maxAttempts=20
    )
    assert (answer["jobsEnqueued"], answer["imagesEnqueued"], len(answer["jobIds"])) == (100, 1000, 100)
    check_invariants(queue.connection)


def test_an_order_with_only_required_fields_gets_the_defaults(queue: Queue) -> None:
    """The defaults are four square photos, five attempts and no style."""
    request = order()
    del request["numImagesPerExample"]
    answer = queue.call("enqueue_generation_batch", p_request=request)
    row = queue.job(answer["jobIds"][0])
    assert (row["aspectRatio"], row["numImagesPerExample"], row["maxAttempts"], row["priority"]) == (
        "1:1",
        4,
        5,
        0,
    )
    assert (row["glasses"], row["hairColor"], row["hairStyle"], row["exampleImagePrompt"]) == (None,) * 4
    assert (row["status"], row["attempts"], row["backgrounds"], row["styles"]) == ("pending", 0, [], [])
    assert queue.batch(answer["batchId"])["imagesTotal"] == 4


def test_an_orders_fields_arrive_in_the_rows(queue: Queue) -> None:
    """Trimmed, with the examples in their order."""
    examples = [{"id": f"e{i}", "url": PHOTO, "prompt": f" prompt {i} "} for i in range(3)]
    style: dict[str, Any] = {
        "hairColor": "red",
        "hairStyle": "long",
        "backgrounds": ["sea"],
        "styles": ["film", "old"],
    }
    answer = queue.enqueue(exampleImages=examples, priority=-3, maxAttempts=2, glasses="  round ", **style)
    rows = [queue.job(job_id) for job_id in answer["jobIds"]]
    assert [row["exampleImagePrompt"] for row in rows] == ["prompt 0", "prompt 1", "prompt 2"]
    assert [row["exampleImageId"] for row in rows] == ["e0", "e1", "e2"]
    assert {key: rows[0][key] for key in style} == style
    assert (rows[0]["glasses"], rows[0]["priority"], rows[0]["maxAttempts"]) == ("round", -3, 2)
    assert queue.run().claim()[0]["glasses"] == "round"


@pytest.mark.parametrize(
    ("said", "stored"), [(True, "true"), (False, "false"), ("none", "none"), (None, None)]
)
def test_glasses_may_be_a_boolean_or_text(queue: Queue, said: object, stored: object) -> None:
    """Apps send either."""
    queue.enqueue(glasses=said)
    assert queue.one("select * from photo_generation_queue")["glasses"] == stored


def test_allowed_buckets_are_rows(queue: Queue) -> None:
    """A bucket that the operator adds is allowed at once."""
    queue.connection.execute("insert into generation.photo_buckets values ('selfies')")
    queue.enqueue(trainingImageUrls=["selfies/user-1/me.jpg"])
