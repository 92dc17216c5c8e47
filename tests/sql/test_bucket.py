"""Installing over an existing bucket: it is repaired, or the installation says what to set."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import DictRow

from local.install_sql import SQL
from worker.supabase.bucket import IMAGE_TYPES, MAX_IMAGE_BYTES, Bucket

BUCKET = "generated-photos"
STORAGE = (SQL / "functions" / "90_storage.sql").read_text()


class Database:
    """The database, as the role that installs or as one without rights on buckets."""

    def __init__(self, connection: psycopg.Connection[DictRow]) -> None:
        self._connection = connection
        self.notices: list[str] = []
        connection.add_notice_handler(lambda notice: self.notices.append(str(notice.message_primary)))

    def run(self, statement: str) -> None:
        """Run statements."""
        self._connection.execute(statement.encode())

    def bucket(self) -> Bucket:
        """The bucket as it is now."""
        (row,) = self._connection.execute("select * from storage.buckets where id = %s", [BUCKET])
        types = row["allowed_mime_types"]
        return Bucket(BUCKET, row["public"], row["file_size_limit"], None if types is None else tuple(types))


@pytest.fixture
def database(db: psycopg.Connection[DictRow]) -> Iterator[Database]:
    """A connection whose changes are rolled back."""
    with db.transaction(force_rollback=True):
        yield Database(db)


def change(settings: str) -> str:
    """The statement that gives the bucket other settings."""
    return f"update storage.buckets set {settings} where id = '{BUCKET}'"


@pytest.mark.parametrize(
    ("settings", "size", "types"),
    [
        ("public = true", MAX_IMAGE_BYTES, IMAGE_TYPES),
        ("file_size_limit = 1000000", MAX_IMAGE_BYTES, IMAGE_TYPES),
        ("file_size_limit = null", None, IMAGE_TYPES),
        ("file_size_limit = 90000000", 90_000_000, IMAGE_TYPES),
        ("allowed_mime_types = null", MAX_IMAGE_BYTES, None),
        ("allowed_mime_types = array['image/*']", MAX_IMAGE_BYTES, ("image/*",)),
        (
            "allowed_mime_types = array['image/webp', 'image/gif']",
            MAX_IMAGE_BYTES,
            ("image/webp", "image/gif", "image/png", "image/jpeg"),
        ),
    ],
)
def test_a_bucket_that_is_there_is_repaired(
    database: Database, settings: str, size: int | None, types: tuple[str, ...] | None
) -> None:
    """Whatever its settings were, it is private and takes what Gemini makes; what more it allowed stays."""
    database.run(change(settings))
    database.run(STORAGE)
    repaired = database.bucket()
    assert repaired == Bucket(BUCKET, public=False, max_bytes=size, types=types)
    assert repaired.refusal is None


def test_a_bucket_that_fits_is_left_alone(database: Database) -> None:
    """Installing again changes nothing and says nothing of a repair."""
    before = database.bucket()
    database.run(STORAGE)
    assert database.bucket() == before
    assert not any("repaired" in notice for notice in database.notices)


@pytest.mark.parametrize("settings", ["public = true", "file_size_limit = 1000000"])
def test_a_bucket_that_may_not_be_changed_is_refused_in_words(database: Database, settings: str) -> None:
    """Without the right to repair it, installing fails and says what to set where."""
    database.run(change(settings))
    database.run(
        "create role installer; grant usage on schema storage to installer;"
        " grant select, insert on storage.buckets to installer;"
        " create policy installer on storage.buckets for all to installer using (true)"
    )
    database.run("set local role installer")
    with pytest.raises(psycopg.errors.RaiseException, match="may not be changed from here") as caught:
        database.run(STORAGE)
    assert "50 MB" in str(caught.value.diag.message_hint)


def test_who_may_not_make_the_policy_is_told_who_may(database: Database) -> None:
    """If another role owns the objects, the message names it and the file that it has to run."""
    database.run(
        "create role installer bypassrls; grant usage on schema storage to installer;"
        " grant select, insert, update on storage.buckets to installer;"
        " create role photographer; alter table storage.objects owner to photographer"
    )
    database.run("set local role installer")
    database.run(STORAGE)
    (told,) = [notice for notice in database.notices if "own generated photos" in notice]
    assert "run sql/functions/90_storage.sql as photographer" in told
