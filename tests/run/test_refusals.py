"""Images that Gemini will never make, and orders that can never work, fail at once and permanently."""

import math

from tests.support.runs import Site, picture
from worker.photos.prepare import MAX_PREPARED_BYTES
from worker.run.request import RunRequest

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "SAFETY": ({"kind": "finish", "reason": "SAFETY"}, "safety"),
    "PROHIBITED": ({"kind": "finish", "reason": "PROHIBITED_CONTENT"}, "prohibited_content"),
    "RECITATION": ({"kind": "finish", "reason": "IMAGE_RECITATION"}, "image_recitation"),
    "IMAGE_SAFETY": ({"kind": "finish", "reason": "IMAGE_SAFETY"}, "image_safety"),
    "blocked": ({"kind": "blocked", "reason": "SAFETY"}, "blocked_safety"),
}
WIDE = {"JOBS_AT_A_TIME": "40", "IMAGES_AT_A_TIME": "40"}


async def test_a_refused_image_is_never_requested_again(site: Site) -> None:
    """The other images of the job continue."""
    for name, (answer, _) in REFUSED.items():
        site.gemini.add_rule(answer, prompt=f"[{name}]", times=1)
    jobs = await site.order(*REFUSED, images=3)

    summary = await site.run(**WIDE)

    for job, (name, (_, code)) in zip(jobs, REFUSED.items(), strict=True):
        row = site.job(job)
        assert (row["status"], row["errorCode"], len(site.photos(job))) == (
            "completed",
            "some_images_refused",
            2,
        )
        assert "1 of 3 photos could not be made" in row["errorMessage"]
        (image,) = site.rows('select * from generation.failed_images where "jobId" = %s', job)
        assert image["code"] == code, name
        assert len(site.calls(name)) == 3
    assert (summary["images"]["refused"], summary["images"]["made"]) == (5, 10)
    assert site.batch(jobs[0]) == "partial"
    site.audit(summary, await site.run())
    assert len(site.calls()) == 15


async def test_a_job_with_all_images_refused_fails_with_a_readable_reason(site: Site) -> None:
    """None could be made."""
    site.gemini.add_rule({"kind": "finish", "reason": "PROHIBITED_CONTENT"}, times=2)
    (job,) = await site.order("a", images=2)

    summary = await site.run()

    row = site.job(job)
    assert (row["status"], row["errorCode"]) == ("failed", "prohibited_content")
    assert (
        row["errorMessage"]
        == "Gemini refused this image: it may show prohibited content (PROHIBITED_CONTENT)."
    )
    assert (summary["failed"], site.batch(job)) == (1, "failed")
    site.audit(summary, await site.run())
    assert len(site.calls()) == 2


async def test_a_refusal_is_final_beside_a_temporary_failure(site: Site) -> None:
    """Only the failed image is requested again."""
    site.gemini.add_rule({"kind": "finish", "reason": "SAFETY"}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "error", "code": 503}, prompt="[a]", times=2)
    (job,) = await site.order("a", images=2)

    first = await site.run(RunRequest(max_jobs=1), IMAGES_AT_A_TIME="1")
    site.make_due()
    second = await site.run()

    assert (first["retried"], second["completed"]) == (1, 1)
    assert len(site.calls()) == 4
    assert len(site.photos(job)) == 1
    site.audit(first, second)


async def test_an_order_that_can_never_work_fails_at_once_and_names_the_photo(site: Site) -> None:
    """The job is not retried."""
    orders = {
        "missing": (f"training-photos/{site.user}/gone.png", "photo_missing"),
        "text": (await site.upload("note.png", b"this is no photo"), "photo_not_an_image"),
        "empty": (await site.upload("empty.png", b""), "photo_empty"),
        "cut": (await site.upload("cut.png", picture()[:-40]), "photo_damaged"),
        "large": (await site.upload("large.png", picture() + b"\0" * 7_000_000), "photo_too_large"),
        "inside": ("https://10.0.0.1/me.png", "forbidden_address"),
        "foreign": ("training-photos/somebody-else/me.png", "foreign_photo"),
    }
    jobs = {name: (await site.order(name))[0] for name in orders}
    for name, (photo, _) in orders.items():  # past the checks at the door, as a row inserted by hand
        site.rows(
            'update photo_generation_queue set "exampleImageUrl" = %s where id = %s returning id',
            photo,
            jobs[name],
        )
    (good,) = await site.order("good")

    summary = await site.run(PHOTO_MAX_MB="7")

    found = {name: (site.job(job)["status"], site.job(job)["errorCode"]) for name, job in jobs.items()}
    assert found == {name: ("failed", code) for name, (_, code) in orders.items()}
    assert all(site.job(job)["errorMessage"] and site.batch(job) == "failed" for job in jobs.values())
    assert "gone.png" in site.job(jobs["missing"])["errorMessage"]
    assert site.job(jobs["cut"])["errorMessage"].endswith("cut.png is damaged: it ends early")
    assert (summary["failed"], summary["completed"], site.batch(good)) == (7, 1, "completed")
    assert len(site.calls()) == 1
    site.audit(summary)


async def test_an_order_of_the_most_photos_fits_into_one_request(site: Site) -> None:
    """A photo that is named twice counts twice; each is at most a fourteenth of what Gemini takes."""
    photo = await site.upload("large.png", picture() + bytes(6_700_000))
    (job,) = await site.order("a", photo=photo, trainingImageUrls=[photo] * 13)

    summary = await site.run()

    (call,) = site.calls()
    assert (site.job(job)["status"], call.photos) == ("completed", 14)
    assert 14 * math.ceil(MAX_PREPARED_BYTES / 3) * 4 < 100_000_000 - 1_000_000  # and the prompt
    site.audit(summary)


async def test_a_row_with_more_photos_than_a_request_takes_fails_by_their_number(site: Site) -> None:
    """Only an app can insert such a row; it would need more memory than there is for all orders."""
    row = {"userId": site.user, "exampleImageUrl": site.photo, "basePrompt": "A portrait"}
    rows = [row | {"trainingImageUrls": [site.photo] * number} for number in (13, 14)]
    await site.service.table("photo_generation_queue").insert(rows).execute()

    summary = await site.run()

    jobs = site.rows('select "errorCode", "errorMessage" from photo_generation_queue order by id')
    assert (summary["completed"], summary["failed"]) == (1, 1)
    assert jobs[1] == {
        "errorCode": "too_many_photos",
        "errorMessage": "The order has 15 photos, and a request to Gemini takes 14.",
    }


async def test_an_order_that_gemini_rejects_fails_and_keeps_its_images(site: Site) -> None:
    """The job is not retried."""
    site.gemini.add_rule({"kind": "image"}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "error", "code": 400}, prompt="[a]", times=1)
    a, b = await site.order("a", "b", images=2)

    summary = await site.run(IMAGES_AT_A_TIME="1")

    row = site.job(a)
    assert (row["status"], row["errorCode"], len(site.photos(a))) == ("failed", "invalid_argument", 1)
    assert (site.job(b)["status"], site.batch(a)) == ("completed", "partial")
    assert len(site.calls("a")) == 2
    site.audit(summary)


async def test_a_photo_that_gemini_cannot_process_fails_the_job_at_the_second_try(site: Site) -> None:
    """ "Unable to process input image" is retried once; then the job fails and names the photo."""
    site.gemini.add_rule({"kind": "photo"}, prompt="[once]", times=1)
    site.gemini.add_rule({"kind": "photo"}, prompt="[always]", times=None)
    once, always = await site.order("once", "always")

    summary = await site.run()

    row = site.job(always)
    assert (row["status"], row["errorCode"], len(site.calls("always"))) == ("failed", "photo_unprocessed", 2)
    assert "could not process a photo" in row["errorMessage"]
    assert (site.job(once)["status"], len(site.calls("once"))) == ("completed", 2)
    site.audit(summary, await site.run())


async def test_a_photo_is_blamed_only_for_what_it_did_twice_in_a_row(site: Site) -> None:
    """One such answer beside an overload is retried in another attempt."""
    site.gemini.add_rule({"kind": "error", "code": 503}, prompt="[a]", times=1)
    site.gemini.add_rule({"kind": "photo"}, prompt="[a]", times=1)
    (job,) = await site.order("a")

    first = await site.run(RunRequest(max_jobs=1))

    row = site.job(job)
    assert (row["status"], row["attempts"], row["errorCode"]) == ("pending", 1, "photo_unprocessed")
    site.make_due()
    second = await site.run()
    assert site.job(job)["status"] == "completed"
    site.audit(first, second)
