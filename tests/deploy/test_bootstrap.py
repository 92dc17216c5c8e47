"""deploy/bootstrap.sh against a simulated project: complete, repeatable, and without printing secrets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.cloud import DOT_ENV, PROJECT, ROOT, VALUES, StandInCloud, bootstrap

BUILD = f"serviceAccount:generation-build@{PROJECT}.iam.gserviceaccount.com"

# Who may read which secret, and nothing else: the public service gets none that is worth stealing.
READERS = {
    "generation-supabase-url": {"generation-worker", "generate-images"},
    "generation-supabase-anon-key": {"generate-images"},
    "generation-supabase-service-role-key": {"generation-worker"},
    "generation-gemini-api-key": {"generation-worker"},
    "generation-worker-secret": {"generation-worker"},
    "generation-operator-secret": {"generation-worker"},
}


@pytest.fixture
def cloud(tmp_path: Path) -> StandInCloud:
    """A new project."""
    return StandInCloud(tmp_path)


def readers(cloud: StandInCloud) -> dict[str, set[str]]:
    """The accounts that may read each secret."""
    found = {}
    for secret in cloud.state["secrets"]:
        rights = [right.split("\t") for right in cloud.state["rights"].get(secret, [])]
        assert {role for role, _ in rights} <= {"roles/secretmanager.secretAccessor"}
        found[secret] = {member.split(":")[1].split("@")[0] for _, member in rights}
    return found


@pytest.mark.parametrize("clock", ["scheduler", "pg_cron"])
def test_a_new_project_gets_everything_once(cloud: StandInCloud, clock: str) -> None:
    """A first run makes accounts, rights and secrets; a second one only looks, and changes nothing."""
    first = bootstrap(cloud, "--clock", clock, stdin=DOT_ENV)
    assert first.code == 0, first.out
    expected = {
        name: who for name, who in READERS.items() if clock == "pg_cron" or "worker-secret" not in name
    }
    assert readers(cloud) == expected
    before = cloud.state
    second = bootstrap(cloud, "--clock", clock, stdin=DOT_ENV)
    assert (second.code, second.changes) == (0, []), second.out
    after = cloud.state
    assert {**before, "calls": 0} == {**after, "calls": 0}


def test_values_arrive_and_show_nowhere(cloud: StandInCloud) -> None:
    """Each secret has its value byte for byte, and no command line or output contains one."""
    done = bootstrap(cloud, "--clock", "pg_cron", stdin=DOT_ENV)
    stored = [value for versions in cloud.state["secrets"].values() for value in versions]
    assert sorted(stored) == sorted(VALUES.values())
    assert "canary" not in done.out
    assert "canary" not in str(done.commands)


@pytest.mark.slow
@pytest.mark.parametrize("line", ['K="v w"', "export K='quoted'", "K=plain\r", "K=a=b", "  K=indented"])
def test_lines_of_a_dot_env_file(cloud: StandInCloud, line: str) -> None:
    """Quotes, `export` and Windows line ends come off; a value with white space is not stored."""
    stdin = DOT_ENV.replace("GEMINI_API_KEY=gemini-canary", line.replace("K", "GEMINI_API_KEY"))
    done = bootstrap(cloud, stdin=stdin)
    expected = {"K=plain\r": ["plain"], "export K='quoted'": ["quoted"], "K=a=b": ["a=b"]}.get(line, [])
    assert cloud.state["secrets"]["generation-gemini-api-key"] == expected
    assert (done.code == 0) == bool(expected)


@pytest.mark.slow
def test_missing_values_are_named_and_asked_for_again(cloud: StandInCloud) -> None:
    """Without values all else is done, the missing ones are named, and the next run needs only those."""
    first = bootstrap(cloud, stdin="SUPABASE_URL=https://a.supabase.co\n")
    assert first.code == 1
    missing = "SUPABASE_ANON_KEY SUPABASE_SERVICE_ROLE_KEY GEMINI_API_KEY"
    assert f"Still without a value: {missing}." in first.out
    second = bootstrap(cloud, stdin=DOT_ENV)
    assert second.code == 0, second.out
    assert {tuple(argv[:3]) for argv in second.changes} == {("secrets", "versions", "add")}
    assert len(second.changes) == 3


@pytest.mark.slow
def test_a_secret_nobody_gave_is_made(cloud: StandInCloud) -> None:
    """WORKER_SECRET and OPERATOR_SECRET are random, of 256 bits and unlike, unless they are given."""
    given = "".join(line for line in DOT_ENV.splitlines(True) if "_SECRET=" not in line)
    assert bootstrap(cloud, "--clock", "pg_cron", stdin=given).code == 0
    made = [cloud.state["secrets"][f"generation-{who}-secret"][0] for who in ("worker", "operator")]
    assert made[0] != made[1]
    for secret in made:
        assert len(secret) == 64
        assert int(secret, 16)
        assert secret not in str(cloud.state["calls"])


@pytest.mark.slow
def test_dry_run_of_a_new_project(cloud: StandInCloud) -> None:
    """--dry-run of a new project prints, as they would be run, exactly the changes that a run then makes."""
    dry = bootstrap(cloud, "--dry-run", "--clock", "pg_cron")
    assert (dry.code, dry.changes) == (0, []), dry.out
    assert "Nothing was changed." in dry.out
    promised = [
        shlex.split(line.removeprefix("would run: gcloud "), comments=True)
        for line in dry.out.splitlines()
        if line.startswith("would run: ")
    ]
    real = bootstrap(cloud, "--clock", "pg_cron", stdin=DOT_ENV)
    assert promised == real.changes
    assert len(promised) > 25


@pytest.mark.slow
def test_dry_run_of_a_finished_project(cloud: StandInCloud) -> None:
    """--dry-run of a project that has everything would run nothing."""
    bootstrap(cloud, stdin=DOT_ENV)
    dry = bootstrap(cloud, "--dry-run")
    assert (dry.code, dry.changes) == (0, [])
    assert "would run" not in dry.out


@pytest.mark.slow
def test_every_command_is_printed(cloud: StandInCloud) -> None:
    """Each command is printed before it runs, including reading ones."""
    done = bootstrap(cloud, stdin=DOT_ENV)
    printed = [
        shlex.split(line[len("$ gcloud ") :], comments=True)
        for line in done.out.splitlines()
        if line.startswith("$ gcloud ")
    ]
    assert printed == done.commands


def holder(right: str) -> str:
    """Whose right it is, without the project's name."""
    return right.split("\t")[1].removeprefix("serviceAccount:").partition("@")[0]


@pytest.mark.slow
def test_rights_of_the_builds(cloud: StandInCloud) -> None:
    """The deploying account builds and tests nothing; the others can do nothing else; none reads a secret."""
    bootstrap(cloud, "--clock", "pg_cron", stdin=DOT_ENV)
    rights = cloud.state["rights"]
    roles: dict[str, set[str]] = {}
    for right in rights[PROJECT]:
        roles.setdefault(holder(right), set()).add(right.split("\t")[0].removeprefix("roles/"))
    assert roles == {
        "generation-build": {
            "run.sourceDeveloper",
            "run.admin",
            "cloudscheduler.admin",
            "serviceusage.serviceUsageConsumer",
            "logging.logWriter",
        },
        "generation-pack": {"run.builder"},
        "generation-test": {"logging.logWriter"},
    }
    users = {
        what.split("@")[0] for what, who in rights.items() if f"roles/iam.serviceAccountUser\t{BUILD}" in who
    }
    assert users == {"generation-worker", "generate-images", "generation-clock", "generation-pack"}
    source = rights[f"gs://{PROJECT}_cloudbuild"]
    assert {holder(right) for right in source} == {"generation-build", "generation-test"}
    assert {right.split("\t")[0] for right in source} == {"roles/storage.objectViewer"}
    others = {what: set(map(holder, who)) for what, who in rights.items() if what.startswith("generation-")}
    assert not {"generation-build", "generation-pack", "generation-test"} & {
        name for what, names in others.items() if "@" not in what for name in names
    }


def test_each_right_has_its_reason() -> None:
    """The script explains each role on the project."""
    text = (ROOT / "deploy" / "bootstrap.sh").read_text()
    granted = re.findall(r"^  (roles/\S+)(.*)$", text, re.MULTILINE)
    assert len(granted) == 7
    assert [role for role, reason in granted if not re.fullmatch(r" +# \w.{10,}", reason)] == []


@pytest.mark.slow
def test_a_new_account_may_take_a_while(cloud: StandInCloud) -> None:
    """If Google does not know a new account yet, the grant is retried five times."""
    cloud.change(shy=4)
    done = bootstrap(cloud, stdin=DOT_ENV)
    assert done.code == 0, done.out
    cloud.change(shy=5, rights={})
    assert bootstrap(cloud, stdin=DOT_ENV).code == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("difference", "told"),
    [
        ({"signedIn": []}, "gcloud auth login"),
        ({"billing": ["False"]}, "Billing is off"),
        ({"failing": ["services enable"]}, "run this again"),
        ({"failing": ["services list"]}, "run this again"),
        ({"failing": ["secrets versions add"]}, "failed"),
    ],
)
def test_what_stops_it_is_said(cloud: StandInCloud, difference: dict[str, object], told: str) -> None:
    """Whatever is in the way ends the run at once, with an exit code and the fix."""
    cloud.change(**difference)
    done = bootstrap(cloud, stdin=DOT_ENV)
    assert done.code == 1
    assert told in done.out
    assert done.calls[-1]["code"] == 1 or "failing" not in difference


@pytest.mark.parametrize(
    "arguments",
    [
        ["--project", ""],
        ["--project", "Pröject"],
        ["--region", "x"],
        ["--clock", "both"],
        ["-x"],
        ["--clock"],
    ],
)
def test_arguments_that_cannot_be_used(cloud: StandInCloud, arguments: list[str]) -> None:
    """A mistyped argument is refused before anything is looked at."""
    done = bootstrap(cloud, *arguments, stdin=DOT_ENV)
    assert (done.code, done.calls) == (1, []), done.out


def test_bootstrap_without_gcloud_says_where_to_get_it(cloud: StandInCloud) -> None:
    """The script stops before it changes anything."""
    programs = cloud.folder / "bin"
    (programs / "gcloud").unlink()
    (programs / "dirname").symlink_to("/usr/bin/dirname")
    cloud.environment["PATH"] = str(programs)
    done = bootstrap(cloud, stdin=DOT_ENV)
    assert done.code == 1
    assert "gcloud is not installed" in done.out
    assert "shell.cloud.google.com" in done.out
