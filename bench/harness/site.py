"""The test bed of all parts: the local stack, the simulator and real worker processes."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from bench.harness.figures import hardware
from bench.harness.ledger import Starts
from bench.harness.scale import Scale
from local.demo.environment import kept, simulated_gemini
from local.demo.simulation import ROOT, Simulation
from local.simulator.behaviour import MODELS
from local.stack.errors import StackError
from local.stack.processes import Process
from local.stack.stack import Stack
from local.stack.supabase import DIRECT
from worker.gemini.models import DEFAULT_MODEL

BUCKET = "training-photos"
WORKERS = 3
JOBS_PER_ORDER = 100
IMAGES_PER_JOB = 4
COUNTING = "counts-rejected-calls"
"""A model that only the benchmark uses; its quota also counts rejected calls."""

WORK_TABLES = (
    "public.photo_generation_queue, public.photo_generation_batches, generation.failed_images, "
    "generation.idempotency_keys, generation.runs, generation.flows, generation.gate_turns, generation.gates"
)


def photo() -> bytes:
    """A source photo so small that encoding it does not affect the measurement."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


class Site:
    """A stack in a temporary folder and a simulator; a context manager. `users` have a photo each."""

    def __init__(self, scale: Scale, users: tuple[str, ...]) -> None:
        self.scale, self._users = scale, users
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as running:
            folder = running.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            self.stack = running.enter_context(Stack(Path(folder) / "stack", durable=False))
            models = [*MODELS, COUNTING]
            looks = {"scale": 0.1, "mime_type": "image/jpeg"}
            settings = {"latency": self.scale.latency, "models": models, "seed": 1, **looks}
            self.simulator = running.enter_context(Simulation(self.stack.postgres.folder, settings))
            self.call("set_generation_limits", p_limits={"dollarsPerDay": None})
            self._upload()
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def begin(self, quota: int, gate_rate: int) -> None:
        """Empty the queue and the ledger, set a quota for every model, and reset the gate."""
        self.stack.psql(f"truncate {WORK_TABLES}")
        self.simulator.reset()
        self.set_quota(quota)
        self.set_gate(gate_rate)

    def set_quota(self, quota: int) -> None:
        """Set what the simulator allows per window, for each model separately."""
        limits = {"requests_per_minute": quota, "window_seconds": self.scale.window_seconds}
        self.simulator.configure({"quotas": {"*": limits, COUNTING: {**limits, "count_rejected": True}}})

    def set_gate(self, rate: int) -> None:
        """Set the gate's rate per window; its window and grace are those of the scale."""
        self.call(
            "set_generation_rate",
            p_model=DEFAULT_MODEL,
            p_rate=rate,
            p_window_seconds=self.scale.window_seconds,
            p_grace_seconds=self.scale.grace_seconds,
        )

    def order(self, user: str, images: int) -> list[str]:
        """Enqueue jobs of IMAGES_PER_JOB images for a user; returns the batches' ids."""
        jobs = -(-images // IMAGES_PER_JOB)
        batches = []
        for first in range(0, jobs, JOBS_PER_ORDER):
            examples = [
                {"url": f"{BUCKET}/{user}/me.jpg", "prompt": f"number {number}"}
                for number in range(first, min(first + JOBS_PER_ORDER, jobs))
            ]
            batches.append(self.enqueue(user, examples, [f"{BUCKET}/{user}/me.jpg"], IMAGES_PER_JOB))
        return batches

    def enqueue(
        self, user: str, examples: Sequence[Mapping[str, str]], training: Sequence[str], images: int
    ) -> str:
        """Enqueue an order with this many images per example; returns the batch's id."""
        request = {
            "userId": user,
            "basePrompt": "A portrait in the evening sun",
            "numImagesPerExample": images,
            "trainingImageUrls": training,
            "exampleImages": examples,
        }
        return str(self.call("enqueue_generation_batch", p_request=request)["batchId"])

    def upload(self, user: str, name: str, data: bytes) -> str:
        """Upload a file to a user's folder, replacing an older one; returns its reference."""
        reference = f"{BUCKET}/{user}/{name}"
        headers = {"apikey": self.stack.secret_key, "content-type": "image/jpeg", "x-upsert": "true"}
        request = urllib.request.Request(f"{self.stack.url}/storage/v1/object/{reference}", data, headers)
        DIRECT.open(request, timeout=60).close()
        return reference

    def environment(self) -> dict[str, str]:
        """The settings of a worker here."""
        return {
            **kept(),
            "PYTHONPATH": str(ROOT),
            "SUPABASE_URL": self.stack.url,
            "SUPABASE_SERVICE_ROLE_KEY": self.stack.secret_key,
            **simulated_gemini(self.simulator.url),
            **self.scale.settings(),
        }

    @contextmanager
    def workers(self, apart_seconds: float) -> Iterator[None]:
        """Start WORKERS processes at this distance, which do run after run while the context is open."""
        environment = self.environment()
        command = [sys.executable, "-m", "worker", "--no-env-file", "run"]
        started: list[Process] = []
        try:
            for number in range(WORKERS):
                if number:
                    time.sleep(apart_seconds)
                env = {**environment, "WORKER_ID": f"worker-{number}"}
                name, folder = f"worker-{number}", self.stack.postgres.folder
                started.append(Process(name, command, folder, last_signal=signal.SIGKILL, env=env))
            yield
        finally:
            for process in started:
                if process.is_running:
                    os.kill(process.pid, signal.SIGTERM)
            for process in started:
                process.stop(signal.SIGTERM)

    def wait_for_calls(self, model: str = DEFAULT_MODEL, seconds: float = 30.0) -> float:
        """Wait for the first call of a model; returns its time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if any(call.model == model for call in self.simulator.ledger()):
                return self.starts(model).first
            time.sleep(0.1)
        raise StackError("No worker has called Gemini.", f"Logs: {self.stack.postgres.folder.path}")

    def starts(self, model: str = DEFAULT_MODEL) -> Starts:
        """The calls of a model so far."""
        return Starts.of(self.simulator.ledger(), model)

    def skip_hour(self) -> None:
        """Move the gate's clock past the hour between two probes: sixty windows."""
        self.stack.psql('update generation.gates set "probeAt" = generation.moment()')

    def call(self, function: str, **parameters: object) -> dict[str, Any]:
        """The answer of a database function, called as the service role."""
        return self.stack.supabase.call(f"/rest/v1/rpc/{function}", parameters)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query."""
        found: list[dict[str, Any]] = json.loads(
            self.stack.psql(f"select coalesce(json_agg(r), '[]') from ({query}) as r")
        )
        return found

    def hardware(self) -> str:
        """The hardware and versions, in one line."""
        return hardware(self.stack.postgres)

    def _upload(self) -> None:
        self.stack.supabase.call("/storage/v1/bucket", {"id": BUCKET, "name": BUCKET, "public": False})
        for user in self._users:
            self.upload(user, "me.jpg", photo())
