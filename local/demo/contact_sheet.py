"""Writes demo-output/: the photos as files, and one page without scripts that shows them with their sources.

Source photos are inside the page, so that every image file in the folder is a photo that was ordered.
"""

import base64
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath

from local.demo.books import Books, Row
from local.demo.customer import jpeg
from local.demo.direct import Direct
from local.demo.orders import TRAINING

PAGE = Path(__file__).with_name("contact_sheet.html")
THUMBNAIL_SIDE = 360
SQUARE_SIDE = 210
"""Pixels a square photo has on the page at least; other ratios get about the same area."""

ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
WHAT = {
    "photos": "photos",
    "rate-limited": "429, not made",
    "refused": "refused",
    "failed": "overloaded or failed",
    "gone": "source photo gone",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """The page's contents. `files` by storage path, `sources` by name; `direct` only with the simulator."""

    books: Books
    files: Mapping[str, bytes]
    sources: Mapping[str, bytes]
    direct: Direct | None
    model: str

    def write(self, folder: Path) -> Path:
        """Recreates the folder and returns the page's path."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for job in self.books.jobs:
            for photo in self.books.photos_of(job["id"]):
                (folder / file_name(job, photo)).write_bytes(self.files[photo["storagePath"]])
        page = folder / "index.html"
        page.write_text(self._page(), encoding="utf-8")
        return page

    def _page(self) -> str:
        ratios = dict.fromkeys(job["aspectRatio"] for job in self.books.jobs)
        parts = {
            "{{title}}": f"{len(self.books.photos)} of {self.books.batches_sum('imagesTotal')} photos",
            "{{lead}}": escape(self._lead()),
            "{{comparison}}": self._comparison(),
            "{{orders}}": "\n".join(self._order(ratio) for ratio in ratios),
        }
        page = PAGE.read_text(encoding="utf-8")
        for mark, text in parts.items():
            page = page.replace(mark, text)
        return page

    def _lead(self) -> str:
        done, failed = self.books.ended_as("completed"), self.books.ended_as("failed")
        made_by = f"by {self.model}" if self.direct is None else "by the local Gemini simulator"
        jobs = f"{len(self.books.jobs)} jobs in {len(self.books.batches)} orders"
        return f"{jobs}: {done} completed, {failed} failed. Made {made_by}."

    def _comparison(self) -> str:
        if self.direct is None:
            return ""
        direct = self.direct
        missing = [job for job in self.books.jobs if job["errorCode"] == "photo_missing"]
        gone = sum(job["numImagesPerExample"] for job in missing)
        photos, refused = len(self.books.photos), len(self.books.refusals)
        rest = self.books.batches_sum("imagesTotal") - photos - refused - gone
        rows = {
            "direct": (direct.photos, direct.rate_limited, direct.refused, direct.failed, direct.source_gone),
            "queue": (photos, 0, refused, rest, gone),
        }
        return "\n".join(_bar(name, dict(zip(WHAT, counts, strict=True))) for name, counts in rows.items())

    def _order(self, ratio: str) -> str:
        jobs = "\n".join(self._job(job) for job in self.books.jobs if job["aspectRatio"] == ratio)
        return f"<section>\n<h2>{escape(ratio)}</h2>\n{jobs}\n</section>"

    def _job(self, job: Row) -> str:
        example = PurePosixPath(job["exampleImageUrl"]).name
        sources = self._source(example, "example") + self._source(TRAINING, "training photo")
        results = "\n".join([*self._photos(job), *self._refusals(job)])
        attempts = f"{job['attempts']} attempt{'' if job['attempts'] == 1 else 's'}"
        name, (width, height) = escape(job["exampleImageId"]), map(int, job["aspectRatio"].split(":"))
        column = round(SQUARE_SIDE * math.sqrt(width / height))
        return f"""<article id="{name}">
<header>
<h3>{name}</h3>
<span class="status {job["status"]}">{job["status"]}</span>
<p>{escape(job["exampleImagePrompt"])}</p>
<small>job {job["id"]}, {attempts}</small>
</header>
<div class="row">
<div class="sources">{sources}</div>
<div class="results" style="--ratio: {width} / {height}; --width: {column}px">
{results}
</div>
</div>
</article>"""

    def _source(self, name: str, role: str) -> str:
        caption = f"<figcaption>{role}<br>{escape(name)}</figcaption>"
        if name not in self.sources:
            return f'<figure class="gone"><div>404</div>{caption}</figure>'
        data = base64.b64encode(jpeg(self.sources[name], THUMBNAIL_SIDE)).decode()
        return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{role}">{caption}</figure>'

    def _photos(self, job: Row) -> Iterator[str]:
        for photo in self.books.photos_of(job["id"]):
            name, index = file_name(job, photo), photo["imageIndex"]
            size = f'width="{photo["width"]}" height="{photo["height"]}"'
            seconds = f", {photo['generationMs'] / 1000:.1f} s" if photo["generationMs"] else ""
            yield f"""<figure>
<a href="{name}"><img src="{name}" {size} loading="lazy" alt="{escape(job["exampleImageId"])} {index}"></a>
<figcaption>#{index}, {photo["width"]} × {photo["height"]}{seconds}</figcaption>
</figure>"""

    def _refusals(self, job: Row) -> Iterator[str]:
        refusals = self.books.refusals_of(job["id"])
        for refusal in refusals:
            yield _missing(f"#{refusal['imageIndex']} refused", refusal["message"], refusal["code"])
        if job["status"] == "failed" and not refusals:
            yield _missing("failed", job["errorMessage"], job["errorCode"])


def file_name(job: Row, photo: Row) -> str:
    """`9x16-stairs-0.png`: ratio, example and index."""
    ratio = job["aspectRatio"].replace(":", "x")
    return f"{ratio}-{job['exampleImageId']}-{photo['imageIndex']}.{ENDINGS[photo['mimeType']]}"


def _missing(title: str, reason: str, code: str) -> str:
    return (
        f'<div class="missing"><strong>{escape(title)}</strong><p>{escape(reason)}</p>'
        f"<code>{escape(code)}</code></div>"
    )


def _bar(name: str, counts: Mapping[str, int]) -> str:
    """One bar of the comparison, a segment for each kind, with its numbers below it."""
    shown = {kind: count for kind, count in counts.items() if count}
    segments = "".join(
        f'<i class="{kind}" style="flex: {count}" title="{count} {WHAT[kind]}"></i>'
        for kind, count in shown.items()
    )
    words = "".join(f'<li class="{kind}"><b>{count}</b> {WHAT[kind]}</li>' for kind, count in shown.items())
    return f'<div class="bar"><h4>{name}</h4><div class="track">{segments}</div><ul>{words}</ul></div>'
