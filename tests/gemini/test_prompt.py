"""The prompt: what was ordered and nothing else, within the model's limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import a_job
from worker.gemini.prompt import MAX_CHARS, build_prompt
from worker.jobs import Style

texts = st.builds(lambda text, times: text * times, st.text(max_size=40), st.integers(1, 100))


def test_every_option_is_said() -> None:
    """Each style option that is set appears in the prompt, in the order people read it."""
    style = Style("round, thin frames", "auburn", "short", ("a beach", "a park"), ("film", "warm"))
    prompt = build_prompt(a_job(example_image_prompt="At dusk.", style=style))
    parts = [
        "A portrait by the sea.",
        "At dusk.",
        "round, thin frames",
        "auburn",
        "short",
        "a beach or a park",
        "film, warm",
    ]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)


def test_what_is_not_set_is_not_mentioned() -> None:
    """An empty option leaves the person as in the photos."""
    prompt = build_prompt(a_job())
    for word in ("Glasses", "glasses", "Hair", "Background", "Style"):
        assert word not in prompt


def test_glasses_as_yes_and_no() -> None:
    """The app's old boolean values read as sentences."""
    assert "wears glasses" in build_prompt(a_job(style=Style(glasses="true")))
    assert "wears no glasses" in build_prompt(a_job(style=Style(glasses="false")))


def test_the_photos_are_explained() -> None:
    """The prompt says which photo is the example and which photos show the person."""
    assert "The other photo shows the person" in build_prompt(a_job())
    assert "The other photos show the person" in build_prompt(a_job(training_image_urls=("a/u/1", "a/u/2")))


@given(texts, st.none() | texts, st.lists(st.text(max_size=200), max_size=10))
def test_a_prompt_is_never_empty_or_too_long(base: str, example: str | None, styles: list[str]) -> None:
    """Whatever is ordered within enqueue's limits stays within the model's."""
    job = a_job(base_prompt=base, example_image_prompt=example, style=Style(styles=tuple(styles)))
    assert 0 < len(build_prompt(job)) <= MAX_CHARS
