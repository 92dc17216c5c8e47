"""Queue tables as an old app may have made them, each with the same six jobs in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

UUIDS = {"1": "6f1c2a34-0000-4000-8000-000000000001", "2": "6f1c2a34-0000-4000-8000-000000000002"}
PHOTO = "https://photos.example.com/a.jpg"

# What the old worker left: two jobs locked although they have ended, and one locked by a worker that is gone.
JOBS: tuple[dict[str, str | None], ...] = (
    {"status": "pending", "userId": "1", "batchId": "7", "createdAt": "2026-01-01 10:00:00"},
    {
        "status": "processing",
        "userId": "1",
        "batchId": "7",
        "createdAt": "2026-01-01 10:01:00",
        "lockedBy": "w",
    },
    {
        "status": "completed",
        "userId": "1",
        "batchId": "7",
        "createdAt": "2026-01-01 10:02:00",
        "lockedBy": "w",
    },
    {"status": "failed", "userId": "2", "batchId": None, "createdAt": "2026-01-01 10:03:00", "lockedBy": "w"},
    {"status": "rate_limited", "userId": "2", "batchId": None, "createdAt": "2026-01-01 10:04:00"},
    {"status": "pending", "userId": "2", "batchId": "8", "createdAt": "2026-01-01 10:05:00"},
)

DRIZZLE = {
    "id": "serial primary key",
    "userId": "integer not null",
    "batchId": "integer",
    "exampleImageId": "integer",
    "exampleImageUrl": "varchar(500) not null",
    "exampleImagePrompt": "text",
    "trainingImageUrls": "text[] default '{}'",
    "basePrompt": "text not null",
    "aspectRatio": "varchar(10) default '1:1'",
    "numImagesPerExample": "integer default 4",
    "glasses": "boolean",
    "backgrounds": "json",
    "status": "app_status not null default 'pending'",
    "priority": "integer default 0",
    "attempts": "integer",
    "maxAttempts": "integer not null default 3",
    "retryAt": "timestamp",
    "lockedBy": "varchar(64)",
    "lockedAt": "timestamp(3)",
    "errorMessage": "text",
    "createdAt": "timestamp not null default now()",
    "updatedAt": "timestamp default now()",
    "completedAt": "timestamp",
    "credits": "numeric not null default 1",
}
ENUM = "create type app_status as enum ('pending', 'processing', 'rate_limited', 'completed', 'failed');"


@dataclass(frozen=True)
class OldTable:
    """The columns with their types, how statuses are spelt, and what else the app made before and after.

    `own` are columns of the app's own; `fix` is what the operator runs because the report asks for it.
    """

    columns: Mapping[str, str]
    before: str = ""
    after: str = ""
    spelling: Mapping[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    fix: str = ""

    @property
    def sql(self) -> str:
        """Creates the table, its surroundings and its rows."""
        columns = ", ".join(f'"{name}" {kind}' for name, kind in self.columns.items())
        inserts = "".join(f"{self.insert(job)};\n" for job in JOBS)
        return f"{self.before}\ncreate table photo_generation_queue ({columns});\n{inserts}{self.after}"

    def insert(self, job: Mapping[str, str | None]) -> str:
        """The insert of a job as the old app made it."""
        lists = {"trainingImageUrls": PHOTO, "backgrounds": "a beach"}
        locked = "2026-01-01 12:00:00" if job.get("lockedBy") else None
        status = self.spelling.get(str(job["status"]), job["status"])
        values = {
            "exampleImageUrl": PHOTO,
            "basePrompt": "p",
            "lockedAt": locked,
            **lists,
            **job,
            "status": status,
        }
        used = {name: self._literal(name, values[name]) for name in values if name in self.columns}
        names = ", ".join(f'"{name}"' for name in used)
        return f"insert into photo_generation_queue ({names}) values ({', '.join(used.values())})"

    def _literal(self, name: str, value: str | None) -> str:
        kind = self.columns[name]
        if value is None:
            return "null"
        if name in ("trainingImageUrls", "backgrounds"):
            value = f'{{"{value}"}}' if "[]" in kind else f'["{value}"]'
        return f"'{UUIDS.get(value, value) if kind.startswith('uuid') else value}'"


OWN = frozenset({"updatedAt", "credits"})
CAPITALS = {
    name: name.upper().replace("_", "-")
    for name in ("pending", "processing", "rate_limited", "completed", "failed")
}
CAPITAL_ENUM = "create type app_status as enum ({});".format(
    ", ".join(f"'{name}'" for name in CAPITALS.values())
)
NEEDED = ("id", "userId", "exampleImageUrl", "basePrompt", "status", "createdAt")

OLD_TABLES = {
    "serial, enum, integer users, times without zone": OldTable(DRIZZLE, before=ENUM, own=OWN),
    "enum in capitals": OldTable(
        DRIZZLE | {"status": "app_status default 'PENDING'"},
        before=CAPITAL_ENUM,
        spelling=CAPITALS,
        after="create index q on photo_generation_queue (\"createdAt\") where status = 'PENDING';",
        own=OWN,
    ),
    "varchar status with a check, identity, uuid users": OldTable(
        DRIZZLE
        | {
            "id": "bigint generated always as identity primary key",
            "userId": "uuid not null",
            "batchId": "varchar(64) default gen_random_uuid()",
            "status": f"varchar(20) not null check (status in {tuple(CAPITALS)})",
            "trainingImageUrls": "jsonb not null",
            "backgrounds": "text",
            "attempts": "integer not null default 0 check (attempts <= 3)",
            "createdAt": "timestamptz not null default now()",
        },
        own=OWN,
    ),
    "everything text": OldTable(
        {name: "text" for name in DRIZZLE if name not in ("id", "updatedAt", "credits")}
        | {"id": "integer primary key generated by default as identity", "errorMessage": "text default ''"},
    ),
    "an app around it": OldTable(
        DRIZZLE
        | {"id": "bigserial constraint app_key primary key", "status": "text", "updatedAt": "timestamptz"},
        before="""
            create table app_users (id integer primary key);
            insert into app_users values (1), (2);
            create table app_batches (id integer primary key);
            insert into app_batches values (7), (8);""",
        after="""
            alter table photo_generation_queue
              add constraint user_fk foreign key ("userId") references app_users,
              add constraint batch_fk foreign key ("batchId") references app_batches,
              add constraint paid check (credits > 0);
            create index by_user on photo_generation_queue ("userId", status);
            create table app_credits (job integer references photo_generation_queue);
            insert into app_credits values (1);
            create function app_touch() returns trigger language plpgsql as $$
              begin new."updatedAt" := clock_timestamp(); return new; end $$;
            create trigger touch before update on photo_generation_queue
              for each row execute function app_touch();
            alter table photo_generation_queue enable always trigger touch;
            alter table photo_generation_queue enable row level security, force row level security;
            create policy theirs on photo_generation_queue for select using ("userId" = 1);
            create policy paid on photo_generation_queue for select using (credits > 0);""",
        own=OWN,
        fix="alter table app_credits drop constraint app_credits_job_fkey;",
    ),
    "only what is needed": OldTable(
        {name: DRIZZLE[name] for name in NEEDED},
        before=ENUM,
        fix="update photo_generation_queue set status = 'pending' where status = 'processing';",
    ),
}
