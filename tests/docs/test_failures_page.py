"""docs/failures.md: `make test` has a proof of each row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(
    r"^\| (?!what happened|---)(.+?) \|", (ROOT / "docs" / "failures.md").read_text(), re.MULTILINE
)
PROOFS = {
    "429 for a per-minute quota": ["run/test_quotas.py::test_a_429_per_minute_postpones_the_job_unspent"],
    "429 for a per-day quota": [
        "run/test_quotas.py::test_a_429_per_day_postpones_the_job_until_midnight_in_california",
        "sql/test_settle.py::test_a_job_without_daily_quota_waits_for_midnight_in_california",
    ],
    "429 for a quota of zero": [
        "run/test_quotas.py::test_a_quota_of_zero_is_misconfigured",
        "run/test_quotas.py::test_a_bill_that_nobody_pays_stops_the_run_and_teaches_nothing",
        "run/test_failures.py::test_a_misconfigured_run_stops_and_gives_its_jobs_back_unspent",
    ],
    "Storage does not accept an image": [
        "run/test_storage.py::test_an_image_that_storage_refuses_is_paid_for_once",
        "run/test_storage.py::test_a_probe_that_proves_nothing_is_believed_ever_less",
    ],
    "a bucket of source photos does not exist": [
        "supabase/test_storage_errors.py::test_an_order_from_a_missing_bucket_holds_up_nobody_else"
    ],
    "something in front of Storage": [
        "supabase/test_storage_errors.py::test_a_photo_that_a_firewall_dislikes_holds_up_nobody_else"
    ],
    "Storage refuses the key": [
        "supabase/test_storage_errors.py::test_a_wrong_key_at_storage_fails_no_order",
        "run/test_storage.py::test_a_bucket_that_would_refuse_is_known_before_anything_is_paid",
    ],
    "the Supabase project is paused": ["supabase/test_refusals.py::test_a_refused_project_ends_the_run"],
    "500, 503, 504, a 429": [
        "run/test_failures.py::test_a_transient_failure_is_retried_once_then_later",
        "run/test_failures.py::test_a_request_without_an_answer_is_a_transient_failure",
        "run/test_quotas.py::test_googles_overload_is_retried_like_a_503_and_teaches_nothing",
    ],
    "an answer without an image": [
        "run/test_failures.py::test_a_transient_failure_is_retried_once_then_later"
    ],
    "three quarters of the daily cap": [
        "sql/test_limits.py::test_requests_in_vain_do_not_use_up_a_cap",
        "sql/test_limits.py::test_midnight_brings_no_block_of_jobs",
    ],
    "refused: safety": [
        "run/test_refusals.py::test_a_refused_image_is_never_requested_again",
        "run/test_refusals.py::test_a_job_with_all_images_refused_fails_with_a_readable_reason",
    ],
    "photo missing": [
        "run/test_refusals.py::test_an_order_that_can_never_work_fails_at_once_and_names_the_photo",
        "run/test_refusals.py::test_an_order_that_gemini_rejects_fails_and_keeps_its_images",
        "photos/test_hostile_files.py::test_bad_photos_fail_alone",
    ],
    "a photo is not prepared within 60 s": [
        "photos/test_prepare.py::test_a_photo_that_is_not_prepared_in_time_is_worth_another_try",
        "photos/test_prepare.py::test_a_decoder_that_crashes_fails_its_photo_and_one_that_is_killed_does_not",
    ],
    "a photo takes more than 10 s": [
        "photos/test_prepare.py::test_a_file_that_takes_too_long_is_cut_and_refused_once_for_all",
        "run/test_photos.py::test_a_photo_made_to_take_minutes_fails_its_own_job_alone",
    ],
    "the name of a photo's host": [
        "photos/test_slow_hosts.py::test_a_lookup_for_which_others_leave_no_room_is_delayed_and_not_failed",
        "unit/test_outcome.py::test_a_photo_that_other_users_delayed_spends_nothing",
    ],
    "the photos of a job together take more than 60 s": [
        "run/test_photos.py::test_photos_that_take_too_long_together_fail_their_job_and_name_the_slowest"
    ],
    "a job's photos are not ready": [
        "run/test_deadlines.py::test_a_photo_cut_by_the_runs_end_spends_no_attempt",
        "unit/test_outcome.py::test_photos_that_were_not_ready_cost_a_turn_and_no_attempt",
    ],
    "Gemini cannot process a photo": [
        "run/test_refusals.py::test_a_photo_that_gemini_cannot_process_fails_the_job_at_the_second_try"
    ],
    "the job is 72 h old": [
        "sql/test_gate_claim.py::test_a_job_at_its_maximum_age_fails_at_a_used_up_quota",
        "sql/test_gate_claim.py::test_a_job_at_its_maximum_age_fails_at_a_retry_that_spends_no_attempt",
    ],
    "attempts used up": [
        "run/test_failures.py::test_a_job_fails_after_its_last_attempt_with_the_last_reason"
    ],
    "the worker died": [
        "run/test_kill.py::test_the_next_invocation_completes_a_killed_ones_batch",
        "sql/test_rescue.py::test_suspect_goes_alone",
        "sql/test_rescue.py::test_a_jobs_third_crash_alone_fails_it",
    ],
    "Supabase not reachable": [
        "run/test_deadlines.py::test_supabase_unreachable_at_start",
        "http/test_run.py::test_a_run_without_supabase_is_503",
    ],
    "Supabase lost during the run": [
        "run/test_deadlines.py::test_supabase_lost_while_generating",
        "run/test_deadlines.py::test_supabase_lost_before_record",
    ],
    "the process gets SIGTERM": [
        "run/test_deadlines.py::test_a_stopped_run_ends_in_seconds",
        "run/test_kill.py::test_sigterm_keeps_pending_requests_and_releases_the_other_jobs",
    ],
    "the run's end cuts a call": [
        "run/test_deadlines.py::test_a_photo_cut_by_the_runs_end_spends_no_attempt",
        "run/test_deadlines.py::test_hanging_calls_are_cut",
    ],
    "the job is cancelled": [
        "run/test_ownership.py::test_an_image_of_a_cancelled_order_is_discarded_and_counted"
    ],
}
"""By the beginning of the row's first cell: the tests that show it."""


@cache
def marked_tests(file: str) -> dict[str, str]:
    """The tests of a module, each with its marks."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {
        node.name: " ".join(ast.unparse(mark) for mark in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_each_row_is_in_the_table_of_proofs() -> None:
    found = [[beginning for beginning in PROOFS if row.startswith(beginning)] for row in ROWS]
    assert [row for row, beginnings in zip(ROWS, found, strict=True) if len(beginnings) != 1] == []
    assert len(ROWS) == len(PROOFS)


@pytest.mark.parametrize("beginning", PROOFS)
def test_each_proof_is_a_test_that_make_test_runs(beginning: str) -> None:
    for proof in PROOFS[beginning]:
        file, _, name = proof.partition("::")
        module = (ROOT / "tests" / file).read_text()
        assert name in marked_tests(file), proof
        assert not re.match(r"pytest\.mark\.(slow|system)", marked_tests(file)[name]), proof
        assert not re.search(r"^pytestmark = pytest\.mark\.(slow|system)", module, re.MULTILINE), proof
