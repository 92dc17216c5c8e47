-- What wants a person's attention though nothing has failed; the numbers, status and check show it.

-- Models in use whose announced end is near or past: [{about, subject, words}]. p_models are those in use.
create or replace function generation.warnings(p_models jsonb) returns jsonb
language sql immutable set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object('about', 'model', 'subject', k ->> 'model', 'words', k ->> 'warning')), '[]')
  from jsonb_array_elements(p_models) as k
  where k ->> 'warning' is not null
$$;

-- Times that lie further in the future than possible, in words: [{about, subject, words}], one for each column; counts up to 1000 rows.
-- The next run corrects them, except for a wait without a beginning, which a person or an earlier version has set.
create or replace function generation.times_ahead(p_now timestamptz) returns jsonb
language sql stable set search_path = ''
as $$
  with latest as (
    select greatest(p_now, generation.moment()) as now
  ), ahead as (
    select 'retryAt' as name, 'waiting jobs' as what, w.at from latest as t cross join lateral (
      (select q."retryAt" as at from public.photo_generation_queue as q
        where q."retryAt" > t.now + generation.most_ahead('public.photo_generation_queue', 'retryAt')
          and q.status in ('pending', 'rate_limited')
        order by q."retryAt" desc limit 1000)
      union all
      (select q."retryAt" from public.photo_generation_queue as q
        where q."waitingSince" > t.now and q."retryAt" <= t.now + generation.most_ahead('public.photo_generation_queue', 'retryAt')
        order by q."waitingSince" desc limit 1000)) as w
    union all
    select 'leaseExpiresAt', 'locked jobs', q."leaseExpiresAt" from latest as t cross join lateral (
      select q."leaseExpiresAt" from public.photo_generation_queue as q
      where q.status = 'processing'
        and q."leaseExpiresAt" > t.now + generation.most_ahead('public.photo_generation_queue', 'leaseExpiresAt')
      order by q."leaseExpiresAt" desc limit 1000) as q
    union all
    select 'endsBy', 'runs under way', r."endsBy" from latest as t cross join lateral (
      select r."endsBy" from generation.runs as r where r."startedAt" > t.now order by r."startedAt" desc limit 1000) as r
    union all
    select 'blockedUntil', 'closed gates', greatest(g."blockedUntil", generation.last_start(g), g."limitedAt", g."learnedAt", g."probeAt")
    from latest as t cross join generation.gates as g
    where generation.gate_in_time(g, t.now) is distinct from g
    union all
    select 'requestedAt', 'erasures', greatest(e."requestedAt", e."emptyAt") from latest as t cross join generation.erasures as e
    where greatest(e."requestedAt", e."emptyAt") > t.now
  ), told as (
    select a.name, format(
      '%s: %s, until %s at the latest (%s), longer than can be unless the database''s clock was ahead', a.what, count(*),
      to_char(max(a.at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"'), a.name) as words
    from ahead as a group by a.name, a.what
  )
  select coalesce(jsonb_agg(jsonb_build_object('about', 'clock', 'subject', t.name, 'words', t.words) order by t.name), '[]')
  from told as t
$$;
