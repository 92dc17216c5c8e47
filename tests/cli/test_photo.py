"""`photo`: what Gemini would get of a source photo."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.support.command_line import CommandLine
from tests.support.photo_files import sideways
from tests.support.runs import Site


async def test_photo_writes_what_gemini_gets(cli: CommandLine, site: Site, tmp_path: Path) -> None:
    """The same bytes that a run sends; the log says the sizes before and after."""
    original = sideways(6)
    reference = await site.upload("me.jpg", original, "image/jpeg")
    file = tmp_path / "sent"

    said = (await cli.call("photo", reference, "--out", str(file))).json
    await site.order("a", photo=reference)
    done = await cli.call("tick")

    assert Image.open(file).size == (96, 64)
    assert said == {"bytes": len(original), "sentBytes": file.stat().st_size, "sentType": "image/png"}
    (call,) = site.calls()
    assert [site.gemini.received.photo(sha) for sha in call.photo_shas] == [file.read_bytes()] * 2
    assert f"photos=2 bytes={2 * len(original)} sent_bytes={2 * file.stat().st_size}" in done.log


async def test_photo_says_why_a_photo_cannot_be_used(cli: CommandLine, site: Site, tmp_path: Path) -> None:
    reference = await site.upload("cut.jpg", sideways(1)[:-300], "image/jpeg")
    out = str(tmp_path / "sent")
    damaged = await cli.call("photo", reference, "--out", out)
    assert (damaged.code, damaged.out) == (
        1,
        "",
    ) and "is damaged: it ends early (photo_damaged)" in damaged.log
    inside = await cli.call("photo", "https://10.0.0.1/me.jpg", "--out", out)
    assert inside.code == 1 and "(forbidden_address)" in inside.log
    nowhere = await cli.call("photo", site.photo, "--out", str(tmp_path / "missing" / "sent"))
    assert nowhere.code == 2 and "cannot be written" in nowhere.log
