-- The gate counts starts in a sliding window, and a run counts as one at once only while it is heard of.

-- When the run last claimed or asked the gate, to about ten seconds.
alter table generation.runs add column if not exists "heardAt" timestamptz not null default now();

alter table generation.gates
-- The starts given out in the last span, in order, and how many at each time: see 41_window.sql.
add column if not exists "startTimes" timestamptz[] not null default '{}',
add column if not exists "startCounts" integer[] not null default '{}',
-- When the next may come: at once from `roomAt` on, at `paceAt` before.
add column if not exists "roomAt" timestamptz not null default '-infinity',
add column if not exists "paceAt" timestamptz not null default '-infinity',
-- The most starts of one span that no 429 followed.
add column if not exists "provenStarts" integer not null default 0,
-- Null: half of the rate (see 41_window.sql).
alter column burst drop not null,
alter column burst drop default,
alter column "graceSeconds" set default 0.5;

-- The starts of a gate so far are taken to have followed its even pace until `arrivalAt`. A burst of 1 and a grace of a second
-- were the defaults.
update generation.gates as g
set burst = nullif(g.burst, 1), "graceSeconds" = least(g."graceSeconds", 0.5), "paceAt" = g."arrivalAt",
  "roomAt" = g."arrivalAt" + make_interval(secs => g."windowSeconds"),
  "startTimes" = array(
    select g."arrivalAt" - i * make_interval(secs => g."windowSeconds" / 100) from generate_series(100, 1, -1) as i),
  "startCounts" = array_fill(ceil(least(g.rate, coalesce(g."learnedRate", g.rate)) / 100)::integer, array[100])
where g."arrivalAt" > '-infinity';

update generation.gates as g set burst = nullif(g.burst, 1), "graceSeconds" = least(g."graceSeconds", 0.5)
where g."arrivalAt" = '-infinity';

-- What the even pace needed.
alter table generation.gates drop column "arrivalAt", drop column "busySince";
