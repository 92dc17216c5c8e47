"""The simulator's answers instead of an image: ordered rules, each valid for a number of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.simulator.exhausted import SHAPES, Period

KINDS: dict[str, str] = {
    "image": "a good answer; `images` of them after `drafts`, `flagged` as thoughts (drafts, none, all), "
    "finish reason `finish`; `hold` keeps it back until release()",
    "error": "a JSON error: `code`, and `status` and `message` where they differ from Google's own",
    "photo": "a 400 that says that a photo cannot be processed",
    "quota": "a 429: `shape`, `period`, `limit`, `retry_seconds`",
    "finish": "a candidate without an image and the finish reason `reason`",
    "blocked": "no candidates and promptFeedback.blockReason `reason`",
    "empty": "200 with {}",
    "text": "200 with `text` instead of an image",
    "malformed": "200 with an image that is not base64",
    "truncated": "200 with an image whose bytes end too early",
    "html": "a proxy's page that is not JSON, status `code`",
    "drip": "a good answer sent in small pieces over `seconds`",
    "hang": "no answer ever; with `images` 1 or more it was made all the same, and billed",
    "reset": "the connection is reset (RST) without an answer; `images` as for hang",
    "close": "the connection is closed (FIN) without an answer; `images` as for hang",
}
# Status names and texts as Google sends them: Gemini API, "Troubleshooting".
ERRORS: dict[int, tuple[str, str]] = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "Requested entity was not found."),
    500: ("INTERNAL", "An internal error has occurred. Please retry or report in https://ai.google.dev"),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}
FLAGGED = ("drafts", "none", "all")
UNPAID = frozenset({"hang", "reset", "close"})
MAKING = UNPAID | {"image", "malformed", "truncated", "drip"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `kind` decides which fields count (KINDS). `latency_seconds` replaces the drawn latency."""

    kind: str = "image"
    code: int = 503
    status: str = ""
    message: str = ""
    reason: str = "SAFETY"
    shape: str = "full"
    period: Period = "minute"
    limit: int = 10
    retry_seconds: float = 47.0
    images: int | None = None
    drafts: int = 0
    flagged: str = "drafts"
    finish: str = "STOP"
    text: str = "I can't draw that, but here is a description."
    seconds: float = 1.0
    hold: bool = False
    latency_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown answer {self.kind!r}; known: {', '.join(KINDS)}")
        if self.period not in ("minute", "day"):
            raise ValueError(f"unknown period {self.period!r}")
        if self.flagged not in FLAGGED:
            raise ValueError(f"unknown value of flagged {self.flagged!r}; known: {', '.join(FLAGGED)}")
        if self.shape not in SHAPES:
            raise ValueError(f"unknown 429 shape {self.shape!r}; known: {', '.join(SHAPES)}")

    @property
    def images_made(self) -> int:
        """How many images it makes, and so costs: by default one, or none if there is no answer."""
        if self.images is not None:
            return self.images
        return 0 if self.kind in UNPAID else 1

    @classmethod
    def parse(cls, value: Answer | Mapping[str, Any]) -> Answer:
        """Read an answer. Raises ValueError or TypeError (an unknown field)."""
        return value if isinstance(value, Answer) else cls(**value)


@dataclass(slots=True)
class Rule:
    """Answers `times` calls (None: all) whose prompt contains `prompt`, of the model (None: any)."""

    answer: Answer
    prompt: str | None = None
    model: str | None = None
    times: int | None = None

    def matches(self, prompt: str, model: str) -> bool:
        """Tell whether the rule is for this call and not used up."""
        fits = (self.prompt is None or self.prompt in prompt) and self.model in (None, model)
        return fits and (self.times is None or self.times > 0)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Rule:
        """Read `{"match": {"prompt"?, "model"?}, "times": n or null, "answer": {…}}`. Raises ValueError."""
        match = dict(value.get("match") or {})
        if unknown := (set(value) - {"match", "times", "answer"}) | (set(match) - {"prompt", "model"}):
            raise ValueError(f"unknown fields in a rule: {', '.join(sorted(unknown))}")
        return cls(Answer.parse(value["answer"]), match.get("prompt"), match.get("model"), value.get("times"))


def consume(rules: list[Rule], prompt: str, model: str) -> Answer | None:
    """Return the answer of the first rule that matches, and spend one of its times."""
    for rule in rules:
        if rule.matches(prompt, model):
            rule.times = None if rule.times is None else rule.times - 1
            return rule.answer
    return None
