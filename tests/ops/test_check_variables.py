"""A variable with a name that nothing reads is reported, since it would be silently ignored."""

from __future__ import annotations

import pytest

from tests.support.command_line import CommandLine
from worker.ops.check_variables import misspelled_findings

ENV = {
    "SUPABASE_URL": "https://abc.supabase.co",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
    "SUPABASE_ANON_KEY": "sb_publishable_x",
    "GEMINI_API_KEY": "x",
}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("GEMINI_MODEL", "GEMINI_MODEL_NAME"),
        ("MAXJOBS", "MAX_JOBS"),
        ("JOBS_AT_TIME", "JOBS_AT_A_TIME"),
        ("WORKER_SECERT", "WORKER_SECRET"),
        ("OPERATOR_SECRETS", "OPERATOR_SECRET"),
        ("CORS_ALLOWED_ORIGIN", "CORS_ALLOWED_ORIGINS"),
    ],
)
def test_a_misspelled_setting_is_told_with_the_name_that_was_meant(given: str, meant: str) -> None:
    """The operator learns that it is ignored, and the right name."""
    (finding,) = misspelled_findings({**ENV, given: "a-value"})
    assert finding.state == "warning" and given in finding.message
    assert meant in str(finding.fix) and "a-value" not in str(finding)


@pytest.mark.parametrize(
    "given",
    [
        "PATH",
        "SUPABASE_DB_URL",
        "GOOGLE_API_KEY",
        "MAKE_JOBS",
        "LOGNAME",
        "K_SERVICE",
        "GEMINI_CLI",
        "HTTPS_PROXY",
    ],
)
def test_what_others_read_is_not_complained_of(given: str) -> None:
    """An environment has variables of other programs, which resemble settings that are set, or none."""
    assert misspelled_findings({**ENV, given: "a-value"}) == []


async def test_check_tells_of_it_whether_or_not_the_settings_are_complete(cli: CommandLine) -> None:
    """Beside the missing setting, or as a warning if nothing is missing."""
    missing = await cli.call("check", env={"SUPABASE_SERVICE_ROLE_KEY": None, "SUPABASE_SERVICE_KEY": "x"})
    assert missing.code == 2 and "SUPABASE_SERVICE_ROLE_KEY is not set" in missing.out
    assert "SUPABASE_SERVICE_KEY is set, but not used" in missing.out
    complete = await cli.call("check", env={"MAXJOBS": "5"})
    assert complete.code == 0 and "if you meant MAX_JOBS, rename it" in complete.out
