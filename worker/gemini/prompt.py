"""Builds the prompt of a job from the base prompt, the example's prompt and the style options."""

from __future__ import annotations

from worker.jobs import Job, Style

MAX_CHARS = 12_000
"""Fits both prompts (4 000 characters each) and all options at their longest; about 3 000 of the model's
32 768 tokens."""


def build_prompt(job: Job) -> str:
    """The prompt, one paragraph per part: what to show, what each photo is for, the style."""
    paragraphs = [job.base_prompt.strip()]
    if job.example_image_prompt:
        paragraphs.append(job.example_image_prompt.strip())
    paragraphs.append(_roles(len(job.training_image_urls)))
    paragraphs.extend(_wishes(job.style))
    return "\n\n".join(paragraphs)[:MAX_CHARS]


def _roles(training_photos: int) -> str:
    if not training_photos:
        return "The photo is the example to follow."
    who = "The other photo shows" if training_photos == 1 else "The other photos show"
    return (
        f"The first photo is the example to follow in composition, pose and light. {who} the person "
        "to portray: keep the face, so that it is recognisably theirs."
    )


def _wishes(style: Style) -> list[str]:
    wishes = [
        _glasses(style.glasses),
        f"Hair colour: {style.hair_color}." if style.hair_color else "",
        f"Hair style: {style.hair_style}." if style.hair_style else "",
        f"Background: {' or '.join(style.backgrounds)}." if style.backgrounds else "",
        f"Style: {', '.join(style.styles)}." if style.styles else "",
    ]
    return [wish for wish in wishes if wish]


def _glasses(value: str | None) -> str:
    match (value or "").strip().lower():
        case "":
            return ""
        case "true" | "yes" | "t":
            return "The person wears glasses."
        case "false" | "no" | "f" | "none":
            return "The person wears no glasses."
        case _:
            return f"Glasses: {(value or '').strip()}."
