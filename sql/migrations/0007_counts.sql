-- What ended within the last day, counted by minute and by hour, so that the numbers do not count every photo again: see 79_counts.sql.

-- One row per counted minute (seconds = 60) and per hour of which every minute is counted (seconds = 3600). A cache: rows that are
-- missing are counted from the tables, so deleting any of them changes no number.
create table if not exists generation.counts (
  seconds integer not null,
  at timestamptz not null,
  completed integer not null,
  failed integer not null,
  cancelled integer not null,
  made integer not null,
  refused integer not null,
  -- Images whose time is known.
  timed integer not null,
  -- Sums and maxima of completed jobs and of timed images.
  "jobMs" bigint not null,
  "jobMsMost" bigint,
  "imageMs" bigint not null,
  "imageMsMost" integer,
  -- {code: number}
  failures jsonb not null,
  refusals jsonb not null,
  -- Times taken, rounded to one percent (see count_ended), ascending, and how often each: of jobs in tenths of a second, of images in ms.
  "jobTimes" integer[] not null,
  "jobTimeCounts" integer[] not null,
  "imageTimes" integer[] not null,
  "imageTimeCounts" integer[] not null,
  primary key (seconds, at)
);

-- Minutes in which a row was changed, removed or added late; they are counted again.
create table if not exists generation.changed_minutes (
  at timestamptz not null
);
create index if not exists changed_minutes_at on generation.changed_minutes (at);

-- One row: minutes before `until` may be counted once every transaction before `afterTransaction` has ended.
create table if not exists generation.counting (
  id boolean primary key default true,
  until timestamptz not null default '-infinity',
  "afterTransaction" xid8 not null default '0'
);
insert into generation.counting default values on conflict do nothing;
