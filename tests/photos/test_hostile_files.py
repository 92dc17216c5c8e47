"""Files that pose as photos cost little, and fail their own job alone, for a reason a person can read."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from tests.support.hostile_files import FILES, JPEG
from tests.support.photo_host import MAX_BYTES, Answer, World, reply, stream
from tests.support.runs import Site
from worker.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
WIDE = {"JOBS_AT_A_TIME": "100", "IMAGES_AT_A_TIME": "20", "PHOTO_MAX_MB": "7"}

# How much more memory a process needs at its height once it has prepared all files of a folder, in kB. Built
# here, the files would need more than that.
MEASURE = """
import json, resource, sys
from pathlib import Path
from worker.photos.decode import Limits, Source, Unusable
from worker.photos.kinds import kind_of

def look(data):
    try:
        Source(kind_of(data), data, Limits(2048, 5_000_000), 400_000_000).prepare()
    except Unusable as error:
        return error.code
    except ValueError:
        return "photo_not_an_image"

files = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
look(files["named.exe"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = {name: look(data) for name, data in files.items()}
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, found]))
"""


def test_preparing_a_hostile_file_takes_less_than_60_mb(tmp_path: Path) -> None:
    """No bomb is unpacked."""
    files = {name: found for name, found in FILES.items() if name not in ("large.jpg", "nothing.jpg")}
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    grown_kilobytes, found = json.loads(done.stdout)
    assert found == {name: code for name, (_, code) in files.items()}
    assert grown_kilobytes < 60_000


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (stream(b"x" * 4096), "photo_too_large"),
        (stream(JPEG), "photo_too_large"),
        (reply(b"", content_length="9" * 12), "photo_too_large"),
        (reply(gzip.compress(bytes(50_000_000)), content_encoding="gzip"), "photo_refused"),
        (reply(gzip.compress(bytes(50_000_000)), content_type="image/jpeg"), "photo_not_an_image"),
        (reply(JPEG, content_encoding="br, gzip"), "photo_refused"),
        (reply(b"", content_length="0"), "photo_empty"),
    ],
    ids=[
        "endless",
        "endless jpegs",
        "announced",
        "packed",
        "packed unsaid",
        "packed twice",
        "empty",
    ],
)
async def test_a_body_is_not_taken_beyond_the_limit(world: World, answer: Answer, code: str) -> None:
    """Endless, announced, packed or cut bodies are refused, holding no more than a few times the limit."""
    world.host.answers["/album/me.jpg"] = answer
    await world.names("photos.example.com")
    tracemalloc.start()
    failure = await world.failure()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(failure, BadInput) and failure.code == code
    assert peak < 20 * MAX_BYTES


@pytest.mark.parametrize("kind", ["text/html", "image/gif", "application/zip", "nonsense"])
async def test_a_photo_is_one_whatever_its_header_says(world: World, kind: str) -> None:
    """Bytes after the end, a wrong name and a wrong type do not matter."""
    for name, (data, code) in FILES.items():
        if code is None and len(data) < MAX_BYTES:
            world.host.answers["/album/me.jpg"] = reply(data, content_type=kind)
            assert (await world.fetch()).data == data, name


async def test_bad_photos_fail_alone(site: Site) -> None:
    """A job whose file is no photo fails at once with file and reason; the others are made."""
    jobs = {}
    for name, (data, _) in FILES.items():
        (jobs[name],) = await site.order(name, photo=await site.upload(name, data, "image/jpeg"))
    (good,) = await site.order("good")

    summary = await site.run(**WIDE)

    assert site.job(good)["status"] == "completed"
    assert {name: site.job(job)["errorCode"] for name, job in jobs.items()} == {
        name: code for name, (_, code) in FILES.items()
    }
    for name, (_, code) in FILES.items():
        job = site.job(jobs[name])
        assert (job["status"], job["attempts"]) == ("failed" if code else "completed", 1), name
        if code:
            message = job["errorMessage"]
            assert name in message and len(message.split()) >= 4 and len(message) < 200, message
            assert message.isprintable() and "Error" not in message and "\\x" not in message, message
    passed = [name for name, (_, code) in FILES.items() if code is None]
    assert len(site.calls()) == len(passed) + 1
    site.audit(summary)
