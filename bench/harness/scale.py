"""Scales a benchmark down: all times of a deployment shrink in proportion to the quota's window."""

from dataclasses import dataclass

STARTS_PER_SECOND = 10


@dataclass(frozen=True, slots=True)
class Scale:
    """A quota of `rate` starts in any `window_seconds`; all other times are a deployment's × `factor`.

    They stay within the limits of the settings, which are made for longer runs.
    """

    window_seconds: float

    @property
    def factor(self) -> float:
        """How long a second of a real deployment takes here."""
        return self.window_seconds / 60

    @property
    def rate(self) -> int:
        """The quota, in starts per window: 60 in a window of 6 s is 600 images per real minute."""
        return round(STARTS_PER_SECOND * self.window_seconds)

    @property
    def grace_seconds(self) -> float:
        """The gate's grace: half a second per window of 60 s."""
        return self.factor / 2

    @property
    def run_seconds(self) -> float:
        """An invocation's timeout, 240 s."""
        return max(240 * self.factor, 12.0)

    @property
    def latency(self) -> dict[str, float | str]:
        """The latency of an image: 5 s at the median, within the 3 to 10 s that users of Gemini report."""
        median = 5 * self.factor
        return {"kind": "lognormal", "median_seconds": median, "sigma": 0.3, "high_seconds": 5 * median}

    def settings(self) -> dict[str, str]:
        """The worker's settings as environment variables; others have their defaults."""
        return {
            "INVOCATION_TIMEOUT_SECONDS": f"{self.run_seconds:g}",
            "MARGIN_SECONDS": f"{max(20 * self.factor, 2.0):g}",
            "CALL_TIMEOUT_SECONDS": f"{max(60 * self.factor, 4.0):g}",
            "RETRY_BASE_SECONDS": f"{max(10 * self.factor, 0.1):g}",
            "RETRY_CAP_SECONDS": f"{max(600 * self.factor, 1.0):g}",
            "MAX_IDLE_SECONDS": "1",
        }
