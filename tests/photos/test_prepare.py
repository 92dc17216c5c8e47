"""Decoders: each content is prepared once, a hostile file is cut, and neither harms another user's photo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.clone import descendants
from tests.support.photo_files import endless, endless_and_large, marked, saved
from worker.errors import BadInput, Transient
from worker.jobs import Photo
from worker.photos.decoder_process import DecoderProcess
from worker.photos.prepare import (
    CPU_SECONDS,
    LARGEST_BYTES,
    MAX_PREPARED_BYTES,
    ORDINARY_BYTES,
    PhotoPreparer,
    _IsLarge,
)


def preparer_of(max_edge: int | None = 2048) -> PhotoPreparer:
    """As the worker builds it."""
    return PhotoPreparer(max_edge, time.monotonic)


@pytest.fixture
async def preparer() -> AsyncIterator[PhotoPreparer]:
    made = preparer_of()
    yield made
    await made.close()


def photo(name: str) -> bytes:
    """A unique photo: bytes after the JPEG's end make it another file."""
    return saved(marked(), "JPEG") + name.encode()


def decoders() -> set[int]:
    """The processes that decode."""
    found = set()
    for pid in descendants(os.getpid()):
        line = Path(f"/proc/{pid}/cmdline")
        if line.exists() and b"worker.photos.decoder_main" in line.read_bytes():
            found.add(pid)
    return found


async def until_decoding(seconds: float = 60.0) -> set[int]:
    """Wait for a decoder that is busy."""
    deadline = time.monotonic() + seconds
    while not (found := decoders()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


async def test_the_same_content_is_prepared_once_for_everybody(
    preparer: PhotoPreparer, caplog: pytest.LogCaptureFixture
) -> None:
    """From two addresses, for two users, at the same time or later."""
    caplog.set_level("INFO", "worker")
    data = photo("one")
    users = ("a", "b", "a")
    first, *others = await asyncio.gather(*(preparer.prepare(data, user, "me.jpg") for user in users))
    later = await preparer.prepare(bytes(data), "c", "you.jpg")
    assert all(each is first for each in (*others, later))
    prepared = [record for record in caplog.records if record.message == "photo_prepared"]
    assert [record.__dict__["bytes"] for record in prepared] == [len(data)]
    assert [record.__dict__["sent_bytes"] for record in prepared] == [len(first.data)]


async def test_what_was_prepared_last_is_kept_up_to_a_number_of_bytes(
    preparer: PhotoPreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await preparer.prepare(photo("one"), "a", "1.jpg")
    monkeypatch.setattr("worker.photos.prepare.CACHE_BYTES", 2 * len(one.data))
    two = await preparer.prepare(photo("two"), "a", "2.jpg")
    assert await preparer.prepare(photo("one"), "a", "1.jpg") is one
    await preparer.prepare(photo("three"), "a", "3.jpg")
    assert await preparer.prepare(photo("one"), "a", "1.jpg") is one
    assert await preparer.prepare(photo("two"), "a", "2.jpg") is not two


async def test_a_file_that_takes_too_long_is_cut_and_refused_once_for_all(
    preparer: PhotoPreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's photo is prepared meanwhile; the same file is not decoded again."""
    monkeypatch.setattr("worker.photos.prepare.CPU_SECONDS", 1)
    hostile = endless()
    slow = asyncio.create_task(preparer.prepare(hostile, "attacker", "slow.jpg"))
    await until_decoding()
    await preparer.prepare(photo("victim"), "victim", "me.jpg")
    assert not slow.done()
    with pytest.raises(BadInput, match=r"slow\.jpg takes more than 1 seconds to decode"):
        await slow
    left = decoders()
    with pytest.raises(BadInput, match=r"again\.jpg takes more than"):
        await preparer.prepare(hostile, "attacker", "again.jpg")
    assert decoders() == left


async def test_a_photo_that_is_not_prepared_in_time_is_worth_another_try(
    preparer: PhotoPreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine is not the photo's fault; its decoder is ended, so that the next photo has one."""
    monkeypatch.setattr("worker.photos.prepare.WALL_SECONDS", 0.1)
    with pytest.raises(Transient, match=r"slow\.jpg: preparing it was interrupted") as caught:
        await preparer.prepare(endless(), "user", "slow.jpg")
    assert caught.value.code == "photo_not_prepared"
    assert decoders() == set()


async def test_a_webp_of_nearly_the_most_pixels_and_bytes_is_opened() -> None:
    """Its library reserves eight bytes a pixel and copies the file twice before it tells the size."""
    image = saved(Image.new("RGB", (5200, 4800)), "WEBP", method=0, quality=0)
    data = image[12:] + b"more" + (29_000_000).to_bytes(4, "little") + bytes(29_000_000)
    photo = b"RIFF" + (len(data) + 4).to_bytes(4, "little") + b"WEBP" + data
    request = {
        "kind": "WEBP", "size": len(photo), "max_edge": 2048, "max_bytes": MAX_PREPARED_BYTES,
        "memory": ORDINARY_BYTES, "max_memory": LARGEST_BYTES, "cpu_seconds": CPU_SECONDS,
    }  # fmt: skip
    decoder = await DecoderProcess.start()
    assert "larger" in await decoder.ask(request, photo)
    await decoder.kill()


async def test_a_user_has_half_of_the_decoders(preparer: PhotoPreparer) -> None:
    """One file that takes minutes, and many behind it: another user's photo does not wait for them."""
    hostile = endless()
    files = [hostile[:-2] + bytes([number]) + hostile[-2:] for number in range(5)]
    slow = [asyncio.create_task(preparer.prepare(each, "attacker", "slow.jpg")) for each in files]
    await until_decoding()
    await asyncio.wait_for(preparer.prepare(photo("victim"), "victim", "me.jpg"), 60)
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


async def test_a_photo_is_prepared_while_the_largest_ones_of_other_users_are_decoded_and_wait(
    preparer: PhotoPreparer,
) -> None:
    """Large photos never have all memory or all decoders, however many users send them."""
    large = endless_and_large()
    slow = [
        asyncio.create_task(preparer.prepare(large + user.encode() + b"\xff\xd9", user, "slow.jpg"))
        for user in ("attacker", "accomplice", "another")
    ]
    await until_decoding()
    await asyncio.wait_for(preparer.prepare(photo("victim"), "victim", "me.jpg"), 60)
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


async def test_users_take_turns_with_large_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a user's large photo another user's comes first, although it was asked for later."""
    ready, now = list[str](), 0.0
    preparer = PhotoPreparer(2048, lambda: now)

    async def prepared(_preparer: PhotoPreparer, kind: str, data: bytes, memory: int) -> Photo:
        nonlocal now
        if memory < LARGEST_BYTES:
            raise _IsLarge
        now += 10
        await asyncio.sleep(0)
        return Photo(data, f"image/{kind}", len(data))

    async def prepare(name: str) -> None:
        await preparer.prepare(photo(name), name[0], name)
        ready.append(name)

    monkeypatch.setattr(PhotoPreparer, "_prepared", prepared)
    async with preparer.large.hold("first", 1):
        tasks = []
        for name in ("a1", "a2", "a3", "b1"):
            tasks.append(asyncio.create_task(prepare(name)))
            while preparer.large.waiting < len(tasks):
                await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert ready == ["a1", "b1", "a2", "a3"]


async def test_slow_photos_delay_another_users_quick_ones_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns cost seconds: all quick photos of a user come before the next slow one of another."""
    monkeypatch.setattr("worker.photos.prepare.DECODERS", 1)
    ready, now = list[str](), 0.0
    preparer = PhotoPreparer(2048, lambda: now)

    async def prepared(_preparer: PhotoPreparer, kind: str, data: bytes, _memory: int) -> Photo:
        nonlocal now
        now += 10 if b"slow" in data else 0.1
        await asyncio.sleep(0)
        return Photo(data, f"image/{kind}", len(data))

    async def prepare(name: str) -> None:
        await preparer.prepare(photo(name), name[:4], name)
        ready.append(name[:4])

    monkeypatch.setattr(PhotoPreparer, "_prepared", prepared)
    async with preparer.turns.hold("first", 1):
        tasks = []
        for number in range(12):
            tasks.append(asyncio.create_task(prepare(f"{'slow' if number < 4 else 'fast'}{number}")))
            while preparer.turns.waiting < len(tasks):
                await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    assert ready[:6] == ["slow"] + 5 * ["fast"]


async def test_nobody_waits_for_another_users_turn_to_prepare_the_same_content() -> None:
    """A photo that two users have is prepared in the turn of whoever has one first."""
    preparer = preparer_of()
    slow = asyncio.create_task(preparer.prepare(endless(), "attacker", "slow.jpg"))
    await until_decoding()
    behind = asyncio.create_task(preparer.prepare(photo("both"), "attacker", "both.jpg"))
    while not preparer.turns.waiting:
        await asyncio.sleep(0.01)
    assert (await preparer.prepare(photo("both"), "victim", "both.jpg")).data
    assert not (slow.done() or behind.done())
    slow.cancel()
    assert (await behind).data
    await preparer.close()


async def test_a_run_that_ends_stops_the_decoding_of_its_photos(preparer: PhotoPreparer) -> None:
    """The process is killed, and another takes its place."""
    slow = asyncio.create_task(preparer.prepare(endless(), "user", "slow.jpg"))
    busy = await until_decoding()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert not busy & decoders()
    assert (await preparer.prepare(photo("next"), "user", "me.jpg")).data


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGSEGV, "photo_damaged"), (signal.SIGKILL, "photo_not_prepared")]
)
async def test_a_decoder_that_crashes_fails_its_photo_and_one_that_is_killed_does_not(
    preparer: PhotoPreparer, number: signal.Signals, code: str
) -> None:
    """A crash is the file's doing; whoever else ends the process, the photo is worth another try."""
    slow = asyncio.create_task(preparer.prepare(endless(), "user", "slow.jpg"))
    (busy,) = await until_decoding()
    os.kill(busy, number)
    with pytest.raises((BadInput, Transient)) as caught:
        await slow
    assert caught.value.code == code and caught.value.message.startswith("slow.jpg")
    assert (await preparer.prepare(photo("next"), "user", "me.jpg")).data


async def test_a_decoder_gets_no_secret(
    preparer: PhotoPreparer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "secret-of-the-worker")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nenv >{tmp_path}/environment\nexec {sys.executable} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    await preparer.prepare(photo("one"), "user", "me.jpg")
    environment = (tmp_path / "environment").read_text()
    assert "PYTHONPATH=" in environment and "secret-of-the-worker" not in environment


GOOD = {"size": 4, "cpu_seconds": 0.1, "mime_type": "image/jpeg"}


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (GOOD, '"},{'),
        (GOOD | {"size": 4_666_672}, "A" * 4_666_672),
        (GOOD | {"size": "4"}, "AAAA"),
        (GOOD | {"cpu_seconds": float("nan")}, "AAAA"),
        (GOOD | {"mime_type": "image/jpeg\nX-Header: 1"}, "AAAA"),
        ({"refused": ["job_cancelled", "is damaged"]}, ""),
        ({"refused": ["photo_damaged", "is damaged\nand more"]}, ""),
        ({"refused": 1}, ""),
        ([], ""),
    ],
)
async def test_an_answer_that_no_decoder_gives_is_not_believed(
    preparer: PhotoPreparer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: object, content: str
) -> None:
    """A file may have made the decoder execute its code; nothing of it reaches Gemini, a log or the queue."""
    (tmp_path / "answer").write_text(json.dumps(answer) + "\n" + content)
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nread -r request\nexec cat {tmp_path}/answer\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(Transient, match="interrupted"):
        await preparer.prepare(photo("one"), "user", "me.jpg")


async def test_closing_ends_the_decoders() -> None:
    preparer = preparer_of()
    await preparer.prepare(photo("one"), "user", "me.jpg")
    assert decoders()
    await preparer.close()
    assert not decoders()
