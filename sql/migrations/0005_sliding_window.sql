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

-- The starts of a gate so far are taken to have followed its even pace until `arrivalAt`, which goes with what else that pace needed.
-- A burst of 1 and a grace of a second were the defaults.
do $$
begin
  if exists (
    select from pg_attribute as a
    where a.attrelid = 'generation.gates'::regclass and a.attname = 'arrivalAt' and not a.attisdropped
  ) then
    update generation.gates as g
    set "paceAt" = g."arrivalAt", "roomAt" = g."arrivalAt" + make_interval(secs => g."windowSeconds"),
      "startTimes" = array(
        select g."arrivalAt" - i * make_interval(secs => g."windowSeconds" / n.times) from generate_series(n.times, 1, -1) as i),
      "startCounts" = array(
        select i * n.starts / n.times - (i - 1) * n.starts / n.times from generate_series(1, n.times) as i)
    from (
      select s.model, s.starts, least(s.starts, 100) as times
      from (
        select o.model, greatest(floor(least(o.rate, coalesce(o."learnedRate", o.rate))), 1)::integer as starts
        from generation.gates as o
      ) as s
    ) as n
    where n.model = g.model and g."arrivalAt" > '-infinity';
    update generation.gates as g set burst = nullif(g.burst, 1), "graceSeconds" = least(g."graceSeconds", 0.5) where true;
  end if;
end
$$;

alter table generation.gates drop column if exists "arrivalAt", drop column if exists "busySince";
