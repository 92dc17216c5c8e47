"""The locks: every package is pinned with hashes, as in its source, and no private index is used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from local.locks import LOCKS, ROOT, locked

HASH = "--hash=sha256:" + "0" * 64
INSTALLED = ("requirements.txt", "requirements-dev.txt")  # of the photographs' packages only files are used


def direct(name: str) -> list[Requirement]:
    """The requirements that a person has written down, those of included files too."""
    found: list[Requirement] = []
    for line in (ROOT / name).read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found += direct(text.removeprefix("-r "))
        elif text:
            found.append(Requirement(text))
    return found


def source(lock: str) -> str:
    """The file that a lock is made of."""
    return lock.replace(".txt", ".in")


def brought_along(wanted: Iterable[Requirement]) -> set[str]:
    """All dependencies of these packages on this machine, from the installed metadata."""
    seen: set[tuple[str, str]] = set()
    waiting = [(requirement.name, extra) for requirement in wanted for extra in ("", *requirement.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), more) for more in ("", *needed.extras)]
    return {canonicalize_name(name) for name, _ in seen}


@pytest.mark.parametrize("lock", LOCKS)
def test_nothing_without_a_hash(lock: str) -> None:
    """Every line of a lock is a pinned package with hashes: no option, no address, and so no other index."""
    packages = list(locked(ROOT / lock))
    assert len({package.name for package in packages}) == len(packages) > 1
    assert "://" not in (ROOT / lock).read_text()


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple",
        "--extra-index-url https://packages.example/simple",
        "--find-links /srv/wheels",
        "-r other.txt",
        "flask==3.1.3",
        f"flask>=3.1.3 {HASH}",
        f"flask {HASH}",
        f"flask==3.* {HASH}",
        "flask==3.1.3 --hash=sha1:" + "0" * 40,
        f"flask==3.1.3 {HASH} --config-settings=x=y",
        f"flask @ https://files.example/flask.whl {HASH}",
    ],
)
def test_anything_else_is_noticed(tmp_path: Path, line: str) -> None:
    """A lock with any line but a pinned package with hashes is refused."""
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"click==8.5.1 \\\n    {HASH}\n    # via flask\n{line}\n")
    with pytest.raises(ValueError, match=r"requirements\.txt: not a pinned package"):
        list(locked(lock))


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_agrees_with_its_source(lock: str) -> None:
    """Each requirement that a person wrote is pinned exactly, and its lock has that very version."""
    pinned = {package.name: package.version for package in locked(ROOT / lock)}
    for requirement in direct(source(lock)):
        assert str(requirement.specifier) == f"=={pinned[canonicalize_name(requirement.name)]}", requirement


@pytest.mark.parametrize("lock", INSTALLED)
def test_a_lock_has_exactly_the_dependencies_of_its_requirements(lock: str) -> None:
    """On this machine."""
    needed = brought_along(direct(source(lock)))
    here = {
        package.name
        for package in locked(ROOT / lock)
        if not package.marker or Requirement(f"{package.name} ; {package.marker}").marker.evaluate()  # type: ignore[union-attr]
    }
    assert here == needed


@pytest.mark.parametrize("lock", INSTALLED)
def test_tests_run_with_what_is_locked(lock: str) -> None:
    """The installed versions are the locked ones, so the tests see what is deployed."""
    for package in locked(ROOT / lock):
        if not package.marker:
            assert metadata.version(package.name) == package.version, package.name


def test_tests_and_production_have_the_same_packages() -> None:
    """The lock for development contains the one for production, with the same versions and hashes."""
    development = {package.name: package for package in locked(ROOT / "requirements-dev.txt")}
    for package in locked(ROOT / "requirements.txt"):
        assert development[package.name]._replace(marker="") == package._replace(marker="")


def test_installing_checks_the_hashes() -> None:
    """`make install` never installs a package whose hash is not the lock's."""
    script = (ROOT / "local" / "install.sh").read_text().replace("\\\n", "")
    installs = [
        line for line in script.splitlines() if "pip install" in line and "fail" not in line.split()[:1]
    ]
    assert len(installs) == 2
    assert all(line.count("pip install") == line.count("--require-hashes") for line in installs), installs


def test_the_buildpack_finds_its_framework() -> None:
    """Cloud Run's buildpack adds an older functions-framework unless it finds this in requirements.txt.

    Source: GoogleCloudPlatform/buildpacks, cmd/python/functions_framework.
    """
    assert re.search(r"(?m)^functions-framework\b([^-]|$)", (ROOT / "requirements.txt").read_text())
