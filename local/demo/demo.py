"""`make demo`: the same orders without a queue and through it, on the local stack, with proof at the end."""

import asyncio
import json
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from local.demo import orders, pace, simulation
from local.demo.books import Auditor, Books
from local.demo.contact_sheet import Sheet
from local.demo.customer import Customer, source_photos
from local.demo.direct import Direct, send_directly
from local.demo.environment import open_gate, simulated_gemini, worker_environment
from local.demo.function import ROOT, Function
from local.demo.orders import Order, images
from local.demo.pace import Pace
from local.demo.progress import Progress
from local.demo.promises import Evidence, broken
from local.demo.real import real_gemini
from local.demo.report import as_json, comparison, direct_in_words, proof, table
from local.demo.scheduler import Scheduler
from local.demo.simulation import Simulation
from local.simulator.ledger import Call
from local.stack.folder import Folder
from local.stack.stack import DATA, Stack
from worker.gemini.models import KnownModels

FOLDER = DATA / "demo"
OUTPUT = ROOT / "demo-output"


def demo(fast: bool, dropped: Mapping[str, str]) -> int:
    """Runs the demo; the exit status is 1 if a promise was broken. `StackError` says what hindered it.

    `dropped` is the environment as it was before it was forgotten; only REAL_GEMINI is looked for in it.
    """
    if dropped.get("REAL_GEMINI"):
        return Demo(orders.REAL, pace.REAL, paying=dropped).run()
    return Demo(orders.DEMO, pace.FAST if fast else pace.USUAL).run()


@dataclass(slots=True)
class Outcome:
    """The demo's results; `direct` and `ledger` only with the simulator."""

    books: Books
    files: dict[str, bytes]
    scheduler: Scheduler
    direct: Direct | None
    ledger: Sequence[Call] | None


@dataclass(slots=True)
class Demo:
    """One run of the demo. Everything it starts ends with it.

    `paying` is the environment of who has Google make the photos.
    """

    orders: Sequence[Order]
    pace: Pace
    paying: Mapping[str, str] | None = None
    progress: Progress = field(default_factory=Progress)
    secret: str = field(default_factory=lambda: secrets.token_hex(16))

    def run(self) -> int:
        """From an empty database to the result."""
        began = time.monotonic()
        photos = source_photos()
        self._announce()
        empty(FOLDER)
        shutil.rmtree(OUTPUT, ignore_errors=True)
        with ExitStack() as running:
            stack = running.enter_context(Stack(FOLDER, durable=False))
            open_gate(stack, self.pace)
            self.progress.say(f"local stack   {stack.url}, ready in {time.monotonic() - began:.1f} s")
            folder = stack.postgres.folder
            simulator = None
            real = self._real_gemini(stack)
            if real is None:
                rules = orders.faults(self.pace)
                settings = simulation.settings(self.pace, rules)
                simulator = running.enter_context(Simulation(folder, settings))
                self.progress.say(f"simulator     {simulator.url}, pid {simulator.pid}")
            outcome = asyncio.run(self._work(stack, simulator, photos, real))
        return self._report(outcome, photos, began)

    def _announce(self) -> None:
        jobs = sum(len(order.examples) for order in self.orders)
        self.progress.say(f"{len(self.orders)} orders, {jobs} example images, {images(self.orders)} photos")
        if self.paying is None:
            self.progress.say(
                f"Gemini's quota, in small: {self.pace.quota} requests in any {self.pace.window_seconds:g} s"
            )

    def _real_gemini(self, stack: Stack) -> Mapping[str, str] | None:
        """The environment for Google's Gemini, once its price is accepted; None for the simulator."""
        if self.paying is None:
            return None
        known = KnownModels(json.loads(stack.psql("select generation_models()")))
        return real_gemini(self.paying, self.orders, known)

    async def _work(
        self,
        stack: Stack,
        simulator: Simulation | None,
        photos: Mapping[str, bytes],
        real: Mapping[str, str] | None,
    ) -> Outcome:
        direct = None
        if simulator is not None:
            direct = await send_directly(self.orders, photos, simulator.url)
            self.progress.say(f"direct        {direct_in_words(direct)}")
            simulator.reset()
        gemini = real if simulator is None else simulated_gemini(simulator.url)
        environment = worker_environment(stack, self.secret, self.pace, gemini or {})
        folder = stack.postgres.folder
        # Proxies are for Google alone: everything here is on loopback.
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            customer = Customer(http, stack, *stack.sign_up())
            await customer.upload(photos)
            with Function("generate_images", folder, environment) as function:
                batches = [await customer.order(function.url, order) for order in self.orders]
            self.progress.say(f"queue         {len(batches)} orders taken by generate_images")
            with (
                Function("process_generation_queue", folder, environment) as function,
                Auditor(stack.db_url, batches) as auditor,
            ):
                self.progress.say(
                    f"function      {function.url}, pid {function.pid} (try kill -9: nothing is lost)\n"
                )
                scheduler = Scheduler(
                    function, self.secret, self.pace, self.progress, lambda: self._draw(auditor)
                )
                await scheduler.until_empty(http)
                books = auditor.books()
            files = await customer.download([photo["storagePath"] for photo in books.photos])
        ledger = None if simulator is None else simulator.ledger()
        return Outcome(books, files, scheduler, direct, ledger)

    def _draw(self, auditor: Auditor) -> None:
        if self.progress.draws:
            self.progress.bar(auditor.images_ended(), images(self.orders), "images done")

    def _report(self, outcome: Outcome, photos: Mapping[str, bytes], began: float) -> int:
        books, summaries = outcome.books, outcome.scheduler.summaries
        page = Sheet(books, outcome.files, photos, outcome.direct, summaries[-1]["model"]).write(OUTPUT)
        say = self.progress.say
        say()
        for line in table(books, outcome.ledger):
            say(line)
        say()
        evidence = Evidence(books, outcome.ledger, summaries, outcome.scheduler.deaths, outcome.files)
        failures = broken(evidence)
        if not failures:
            say(proof(evidence))
        say(f"photos: {page.relative_to(ROOT)} · {time.monotonic() - began:.0f} s in all")
        if outcome.direct is not None and outcome.ledger is not None:
            say(comparison(outcome.direct, books, outcome.ledger))
        for failure in failures:
            print(f"BROKEN PROMISE: {failure}", file=sys.stderr)
        self.progress.result(as_json(books, outcome.direct, summaries))
        return 1 if failures else 0


def empty(path: Path) -> None:
    """Removes what an earlier demo left, so that each starts fresh; `StackError` if one is running."""
    folder = Folder(path)
    folder.acquire()
    try:
        for entry in folder.path.iterdir():
            if entry.name in ("owner", "lock"):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    finally:
        folder.release()
