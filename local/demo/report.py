"""The demo's closing words: the table of jobs, what was proved, the comparison, and the line of JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from local.demo.books import Books
from local.demo.direct import Direct
from local.demo.promises import Evidence
from local.simulator.ledger import Call

ERRORS = {"429": "429", "5xx": "overloaded", "cut": "cut off"}
ROW = "{:>4}  {:<6} {:<8} {:<10} {:>7} {:>8}  {}"


def table(books: Books, ledger: Sequence[Call] | None) -> Iterator[str]:
    """A line for each job; its note is the database's reason, or what the ledger knows of its calls."""
    troubles = _troubles(books, ledger or ())
    yield ROW.format("job", "ratio", "example", "status", "photos", "attempts", "note").rstrip()
    for job in books.jobs:
        photos = f"{len(books.photos_of(job['id']))} of {job['numImagesPerExample']}"
        note = job["errorMessage"] or troubles.get(job["id"], "")
        yield ROW.format(
            job["id"], job["aspectRatio"], job["exampleImageId"], job["status"], photos, job["attempts"], note
        ).rstrip()


def _troubles(books: Books, ledger: Sequence[Call]) -> dict[int, str]:
    """By job, the errors of calls before its photos were made."""
    jobs = {
        PurePosixPath(photo["storagePath"]).name.partition("-")[2]: photo["jobId"] for photo in books.photos
    }
    made_for = {call.prompt_sha: jobs[sha] for call in ledger for sha in call.image_shas if sha in jobs}
    troubles: dict[int, Counter[str]] = {}
    for call in ledger:
        if call.outcome in ("429", "5xx", "cut") and call.prompt_sha in made_for:
            troubles.setdefault(made_for[call.prompt_sha], Counter())[ERRORS[call.outcome]] += 1
    return {
        job_id: ", ".join(f"{count} × {error}" for error, count in counts.items()) + ", made later"
        for job_id, counts in troubles.items()
    }


def direct_in_words(direct: Direct) -> str:
    """The results of the direct calls, without those that did not occur."""
    counts = {
        "photos": direct.photos,
        "× 429": direct.rate_limited,
        "refused": direct.refused,
        "× overloaded": direct.failed,
        "without their source photo": direct.source_gone,
    }
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{direct.ordered} at once: {words} ({direct.seconds:.1f} s)"


def proof(evidence: Evidence) -> str:
    """What was checked, with its numbers; printed only if no promise was broken."""
    books = evidence.books
    completed, failed = books.ended_as("completed"), books.ended_as("failed")
    died = f"; times the function died: {evidence.deaths}" if evidence.deaths else ""
    lines = [
        f"every job has ended: {completed} completed, {failed} failed with a reason",
        f"{len(evidence.summaries)} summaries agree with the database{died}",
        f"{len(books.photos)} photos are stored as recorded, each in its ordered aspect ratio",
    ]
    if evidence.ledger is not None:
        paid = sum(call.images for call in evidence.ledger)
        lines.append(f"{paid} images paid for, {len(books.photos)} kept, none asked for again once stored")
    return "\n".join(f"  ✓ {line}" for line in lines)


def comparison(direct: Direct, books: Books, ledger: Sequence[Call]) -> str:
    """Photos and 429s of both ways."""
    ordered = books.batches_sum("imagesTotal")
    limited = Counter(call.outcome for call in ledger)["429"]
    return (
        f"direct: {direct.photos} of {direct.ordered} photos, {direct.rate_limited} × 429 · "
        f"queue: {len(books.photos)} of {ordered}, {limited} × 429"
    )


def as_json(books: Books, direct: Direct | None, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The demo in one object: jobs and photos as the database has them, and every run's own summary."""
    return {
        "jobs": len(books.jobs),
        "completed": books.ended_as("completed"),
        "failed": books.ended_as("failed"),
        "photos": len(books.photos),
        "direct": direct.as_json() if direct else None,
        "runs": list(summaries),
    }
