"""Who may do what: the one table behind all access tests, which check grants and make real requests.

Anything in the database that is missing here makes them fail: decide about it, and add it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

ROLES = ("anon", "authenticated", "service_role")
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
COLUMN_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "REFERENCES")

Answer = tuple[int, str | None]
"""An HTTP status, and the error's code; None where there is no error."""

OK: Answer = (200, None)
UNKNOWN: Answer = (401, "42501")  # not signed in, and so no right to it
FORBIDDEN: Answer = (403, "42501")  # signed in, and yet no right to it
UNEXPOSED: Answer = (406, "PGRST106")  # in a schema that the API does not serve, whoever asks
NOT_THERE: Answer = (404, "PT404")  # somebody else's, told as if it did not exist
NOT_YOURS: Answer = (400, "PT400")  # a field that only the service role may set


@dataclass(frozen=True, slots=True)
class Rights:
    """What one kind of caller may do with a table's rows; `rows`: whose rows a select shows, or the error."""

    rows: str | Answer
    write: Answer


@dataclass(frozen=True, slots=True)
class Table:
    """A table's cells: rights of those not signed in, of a user, and of the service role.

    `service_may` is what the service role is granted: reading, and what servers of an app do by table.
    """

    anon: Rights
    user: Rights
    service: Rights
    service_may: frozenset[str] = frozenset()

    def privileges(self, role: str) -> set[str]:
        """The role's grants in the database."""
        if self is CLOSED:
            return set()
        return {"anon": set(), "authenticated": {"SELECT"}, "service_role": set(self.service_may)}[role]


def _read_own(*service_may: str) -> Table:
    """Users read their own rows; the service role reads all, and does what is named."""
    own, everything = Rights("own", FORBIDDEN), Rights("all", FORBIDDEN)
    return Table(Rights(UNKNOWN, UNKNOWN), own, everything, frozenset({"SELECT", *service_may}))


CLOSED = Table(Rights(UNEXPOSED, UNEXPOSED), Rights(UNEXPOSED, UNEXPOSED), Rights(UNEXPOSED, UNEXPOSED))

TABLES = {
    "public.photo_generation_batches": _read_own(),
    "public.photo_generation_queue": _read_own("INSERT"),
    "public.photo_generation_photos": _read_own("DELETE"),
    "generation.erasures": CLOSED,
    "generation.schema_migrations": CLOSED,
    "generation.failed_images": CLOSED,
    "generation.flows": CLOSED,
    "generation.gate_turns": CLOSED,
    "generation.gates": CLOSED,
    "generation.idempotency_keys": CLOSED,
    "generation.limits": CLOSED,
    "generation.models": CLOSED,
    "generation.photo_buckets": CLOSED,
    "generation.photo_hosts": CLOSED,
    "generation.prices": CLOSED,
    "generation.runs": CLOSED,
    "generation.virtual_times": CLOSED,
    "generation.changed_minutes": CLOSED,
    "generation.counting": CLOSED,
    "generation.counts": CLOSED,
}
TRIGGERS = {"adopt_inserted_job", "mark_all", "mark_image", "mark_job"}
"""Functions in the schema `generation` that run as their owner: whoever writes a table fires them."""
VIEWS = {f"generation.{state}_jobs" for state in ("ready", "waiting", "held", "unswept")}
"""Views of jobs in one state, for functions alone; a reader sees what they may read of the queue."""
SEQUENCES = {"photo_generation_queue_id_seq", "photo_generation_photos_id_seq"}
POLICIES = {
    ("public.photo_generation_batches", "own batches"),
    ("public.photo_generation_queue", "own jobs"),
    ("public.photo_generation_photos", "own photos"),
    ("storage.objects", "own generated photos"),
}
"""Every row-level security policy: each lets `authenticated` select, and nothing else."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The values that arguments need: a user with a batch, one of its jobs claimed by a run."""

    user_id: str
    batch_id: str
    job_id: int
    folder: str
    fence: str
    run_id: str


Arguments = Callable[[Scene], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Function:
    """A function's cells: arguments that are right, and how each kind of caller is answered.

    `owner` is the scene's user; `stranger` another one, who names what is the owner's.
    """

    arguments: Arguments
    owner: Answer = FORBIDDEN
    stranger: Answer = FORBIDDEN
    service: Answer = OK
    anon: Answer = UNKNOWN

    @property
    def callers(self) -> set[str]:
        """The roles that are granted to execute it."""
        return {"service_role"} if self.owner == FORBIDDEN else {"authenticated", "service_role"}


def _order(scene: Scene) -> dict[str, Any]:
    photo = f"training-photos/{scene.user_id}/me.jpg"
    order = {"basePrompt": "A portrait", "exampleImages": [{"url": photo}], "trainingImageUrls": [photo]}
    return {"p_request": {**order, "userId": scene.user_id}}


def _claim(_: Scene) -> dict[str, Any]:
    return {
        "p_run_id": str(uuid4()),
        "p_worker_id": "worker-1",
        "p_claim_id": str(uuid4()),
        "p_max_jobs": 1,
        "p_run_seconds": 60,
        "p_model": "model",
    }


def _photo(scene: Scene) -> dict[str, Any]:
    photo = {
        "storagePath": f"{scene.folder}/{scene.batch_id}/{scene.job_id}/1-abc",
        "mimeType": "image/png",
        "width": 1,
        "height": 1,
        "bytes": 1,
        "model": "model",
        "generationMs": 1,
    }
    return {"p_job_id": scene.job_id, "p_image_index": 1, "p_photo": photo}


def _failed_image(scene: Scene) -> dict[str, Any]:
    return {"p_job_id": scene.job_id, "p_image_index": 1, "p_code": "safety", "p_message": "Refused."}


def _results(scene: Scene) -> dict[str, Any]:
    result = {"jobId": scene.job_id, "fence": scene.fence, "outcome": "failed", "code": "c", "message": "m"}
    return {"p_results": [result]}


def _finished(scene: Scene) -> dict[str, Any]:
    summary = {"stopReason": "budget"}
    return {"p_run_id": scene.run_id, "p_worker_id": "worker", "p_summary": summary, "p_spent_jobs": []}


def _batch(scene: Scene) -> dict[str, Any]:
    return {"p_batch_id": scene.batch_id}


def _slots(scene: Scene) -> dict[str, Any]:
    return {"p_run_id": scene.run_id, "p_model": "model", "p_slots": 1}


def _nothing(_: Scene) -> dict[str, Any]:
    return {}


FUNCTIONS = {
    # The owner's own order names no user: see `without_user` in the test.
    "enqueue_generation_batch": Function(_order, owner=OK, stranger=NOT_YOURS),
    "get_generation_batch": Function(_batch, owner=OK, stranger=NOT_THERE),
    "cancel_generation_batch": Function(_batch, owner=OK, stranger=NOT_THERE),
    "claim_generation_jobs": Function(_claim),
    "record_generated_photo": Function(_photo),
    "record_failed_image": Function(_failed_image),
    "settle_generation_jobs": Function(_results),
    "finish_generation_run": Function(_finished),
    "take_start_slots": Function(_slots),
    "report_rate_limit": Function(
        lambda _: {"p_model": "model", "p_facts": {"period": "day"}, "p_epoch": None}
    ),
    "report_storage": Function(lambda _: {"p_kept": True, "p_facts": {}}),
    "peek_generation_jobs": Function(lambda _: {"p_max_jobs": 10}),
    "generation_queue_stats": Function(_nothing),
    "generation_schema_version": Function(_nothing),
    "generation_gate": Function(_nothing),
    "generation_access_findings": Function(_nothing),
    "generation_overview": Function(_nothing),
    "generation_details": Function(lambda scene: {"p_id": scene.batch_id}),
    "remove_generation_gate": Function(lambda _: {"p_model": "nobody's"}),
    "release_stale_generation_jobs": Function(lambda _: {"p_older_than_seconds": 300}),
    "retry_failed_generation_jobs": Function(
        lambda scene: {"p_batch_id": scene.batch_id, "p_including_refused": False, "p_limit": 10}
    ),
    "set_generation_model_successor": Function(lambda _: {"p_model": "a", "p_successor": "b"}),
    "generation_models": Function(_nothing),
    "retire_generation_model": Function(lambda _: {"p_model": "a", "p_successor": "b"}),
    "set_generation_model": Function(lambda _: {"p_model": "a", "p_facts": {"dollars": 1}}),
    "set_generation_rate": Function(lambda _: {"p_model": "model", "p_rate": 10}),
    "set_generation_limits": Function(lambda _: {"p_limits": {"imagesPerDay": 0}}),
    "generation_photo_hosts": Function(_nothing),
    "add_generation_photo_host": Function(lambda _: {"p_host": "photos.example.com"}),
    "remove_generation_photo_host": Function(lambda _: {"p_host": "photos.example.com"}),
    "pause_generation": Function(lambda _: {"p_reason": "x"}),
    "resume_generation": Function(_nothing),
    "generation_jobs_to_sweep": Function(lambda _: {"p_limit": 1}),
    "settle_swept_generation_jobs": Function(lambda scene: {"p_job_ids": [scene.job_id]}),
    "prune_generation_history": Function(lambda _: {"p_older_than_days": 1, "p_limit": 1}),
    "erase_generation_user": Function(lambda scene: {"p_user_id": scene.user_id}),
    "generation_erasures_to_sweep": Function(lambda _: {"p_limit": 1}),
    "settle_generation_erasure": Function(lambda scene: {"p_user_folder": scene.folder, "p_empty": True}),
}
"""Every function of schema public. All those of schema generation are nobody's but their owner's."""

HIDDEN = (400, "404")  # Supabase Storage tells what may not be seen as missing; its statuses are in the body
REFUSED = (400, "403")


@dataclass(frozen=True, slots=True)
class Deed:
    """An operation on an object of `generated-photos`, with the answers to three kinds of caller.

    `own` and `foreign` are a user at their own object and at another user's.
    """

    anon: Answer
    own: Answer
    foreign: Answer
    service: Answer = OK


STORAGE = {
    "download": Deed(HIDDEN, OK, HIDDEN),
    "info": Deed(HIDDEN, OK, HIDDEN),
    "sign": Deed(HIDDEN, OK, HIDDEN),
    "public": Deed(HIDDEN, HIDDEN, HIDDEN, HIDDEN),
    "list": Deed((200, "0"), (200, "1"), (200, "0"), (200, "1")),
    "upload": Deed(REFUSED, REFUSED, REFUSED),
    "overwrite": Deed(REFUSED, REFUSED, REFUSED),
    "upsert": Deed(REFUSED, REFUSED, REFUSED),
    "copy": Deed(HIDDEN, REFUSED, HIDDEN),
    "move": Deed(HIDDEN, REFUSED, HIDDEN),
    "remove": Deed((200, "0"), (200, "0"), (200, "0"), (200, "1")),
}
"""Lists and removals are answered with what was found: its number stands in the place of a code."""
