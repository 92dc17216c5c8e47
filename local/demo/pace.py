"""How fast the demo goes: the simulator's quota and latency, and the worker's times. All in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """A quota's minute, scaled down: `quota` requests per `window_seconds`, which the gate knows.

    A job's lease is the rest of its run plus 15 s, so a short invocation makes a short lease.
    """

    quota: int = 12
    window_seconds: float = 8.0
    low_seconds: float = 0.5
    high_seconds: float = 1.2
    retry_info_seconds: float = 3.0
    invocation_seconds: float = 25.0
    margin_seconds: float = 3.0
    call_seconds: float = 8.0
    retry_base_seconds: float = 1.0
    jobs_a_call: int = 3
    pause_seconds: float = 0.8


USUAL = Pace()
FAST = Pace(
    window_seconds=3.0,
    low_seconds=0.05,
    high_seconds=0.15,
    retry_info_seconds=1.0,
    invocation_seconds=10.0,
    margin_seconds=2.0,
    call_seconds=4.0,
    retry_base_seconds=0.3,
    pause_seconds=0.3,
)
REAL = Pace(
    quota=30,
    window_seconds=60.0,
    invocation_seconds=120.0,
    margin_seconds=20.0,
    call_seconds=60.0,
    retry_base_seconds=10.0,
)
