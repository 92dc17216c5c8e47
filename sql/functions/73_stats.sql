-- The queue in numbers: one answer for `python -m worker status`, GET /status, GET /metrics and SQL sessions.
--
-- Nothing here reads all ended rows. Jobs that have not ended are counted through the partial indexes. What ended within a day comes from
-- counters (79_counts.sql), but for the last minutes. JIT compilation would take longer than any of these queries.

-- Jobs that have not ended: {ready, waiting, rateLimited, processing, stale, oldestReadySeconds, due: {jobs, images, oldestSeconds},
-- nextRetryAt, nextTrySeconds: {waiting, rateLimited}, ages: {upToSeconds, pending, rateLimited, processing}}. A job is due if it is ready
-- or its retryAt has come. `ages` counts the jobs of each status by the time since the order: those up to each bound and above the one
-- before; the last bound, null, has all that are older. An image of a due job counts unless it is made or given up. Only jobs that were
-- claimed before can have such images, and only if their batch has any, so the others are not looked up.
create or replace function generation.depth_stats(p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_bounds constant timestamptz[] := array[p_now - interval '24 hours', p_now - interval '6 hours', p_now - interval '1 hour',
    p_now - interval '30 minutes', p_now - interval '5 minutes', p_now - interval '1 minute'];
begin
  return (
    with grouped as materialized (
      select 'ready' as state, true as due, 7 - width_bucket(q."createdAt", v_bounds) as age, count(*) as n,
        sum(q."numImagesPerExample") as images, min(q."createdAt") as since, null::timestamptz as retry_at, 0 as stale
      from generation.ready_jobs as q group by 3
      union all
      select q.status, q."retryAt" <= p_now, 7 - width_bucket(q."createdAt", v_bounds), count(*), sum(q."numImagesPerExample"),
        min(q."createdAt"), min(q."retryAt"), 0
      from generation.waiting_jobs as q group by 1, 2, 3
      union all
      select q.status, false, 7 - width_bucket(q."createdAt", v_bounds), count(*), sum(q."numImagesPerExample"),
        min(q."createdAt"), null, count(*) filter (where q."leaseExpiresAt" <= p_now)
      from generation.held_jobs as q group by 1, 3
    ), parted as materialized (
      select b.id from public.photo_generation_batches as b
      where b.status = 'generating' and b."imagesDone" + b."imagesFailed" > 0
    ), begun as materialized (
      select j.id, j."batchId"
      from (
        select q.id, q."batchId" from generation.ready_jobs as q where q.claims > 0
        union all
        select q.id, q."batchId" from generation.waiting_jobs as q where q.claims > 0 and q."retryAt" <= p_now
        offset 0
      ) as j join parted as b on b.id = j."batchId"
    ), aged as (
      select b.age, coalesce(sum(g.n) filter (where g.state in ('ready', 'pending')), 0) as pending,
        coalesce(sum(g.n) filter (where g.state = 'rate_limited'), 0) as rate_limited,
        coalesce(sum(g.n) filter (where g.state = 'processing'), 0) as processing
      from generate_series(1, 7) as b (age) left join grouped as g on g.age = b.age
      group by b.age
    )
    select jsonb_build_object(
      'ready', coalesce(sum(g.n) filter (where g.state = 'ready'), 0),
      'waiting', coalesce(sum(g.n) filter (where g.state = 'pending'), 0),
      'rateLimited', coalesce(sum(g.n) filter (where g.state = 'rate_limited'), 0),
      'processing', coalesce(sum(g.n) filter (where g.state = 'processing'), 0),
      'stale', coalesce(sum(g.stale) filter (where g.state = 'processing'), 0),
      'oldestReadySeconds', round(extract(epoch from p_now - min(g.since) filter (where g.state = 'ready')), 1),
      'due', jsonb_build_object('jobs', coalesce(sum(g.n) filter (where g.due), 0),
        'images', coalesce(sum(g.images) filter (where g.due), 0)
          - (select count(*) from begun as j join public.photo_generation_photos as p on p."batchId" = j."batchId" and p."jobId" = j.id)
          - (select count(*) from begun as j join generation.failed_images as f on f."batchId" = j."batchId" and f."jobId" = j.id),
        'oldestSeconds', round(extract(epoch from p_now - min(g.since) filter (where g.due)), 3)),
      'nextRetryAt', min(g.retry_at) filter (where not g.due),
      'nextTrySeconds', jsonb_build_object(
        'waiting', round(extract(epoch from min(greatest(g.retry_at, p_now)) filter (where g.state = 'pending') - p_now), 3),
        'rateLimited', round(extract(epoch from min(greatest(g.retry_at, p_now)) filter (where g.state = 'rate_limited') - p_now), 3)),
      'ages', (select jsonb_build_object('upToSeconds', '[60, 300, 1800, 3600, 21600, 86400, null]'::jsonb,
          'pending', jsonb_agg(a.pending order by a.age), 'rateLimited', jsonb_agg(a.rate_limited order by a.age),
          'processing', jsonb_agg(a.processing order by a.age)) from aged as a))
    from grouped as g);
end
$$;

-- The parts that flow_stats adds up: counters, and spans without one, which are counted from the tables. A part belongs to the windows
-- `first` to `last`, where 1 is five minutes, 2 an hour, 3 a day. The day is divided into hours; an hour whose counter cannot be used is
-- divided into ten minutes, and these into minutes. No counter with a marked minute is used, and none of more than a minute if a window
-- begins within it. The minute in which a window begins belongs to the longer windows; the part of it that is in this window is counted for
-- this window alone.
create or replace function generation.parts_of_day(p_now timestamptz)
returns table (first integer, last integer, is_counter boolean, counts generation.counts)
language plpgsql stable rows 100 set search_path = '' set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_last constant timestamptz := date_bin('1 minute', p_now, 'epoch');
  v_until constant timestamptz := v_last + interval '1 minute';
  v_next_hour constant timestamptz := date_bin('1 hour', p_now, 'epoch') + interval '1 hour';
  v_seconds constant integer[] := array[3600, 600, 60];
  v_instant constant interval := interval '1 microsecond';
  -- The first instants of the windows 3, 2 and 1: what ended exactly five minutes ago is not in the window of five minutes.
  v_bounds constant timestamptz[] := array[p_now - interval '24 hours' + v_instant, p_now - interval '1 hour' + v_instant,
    p_now - interval '5 minutes' + v_instant];
begin
  return query
  with recursive cells as (
    select date_bin('1 hour', v_bounds[1], 'epoch') as at, v_until as until, 0 as level, false as is_counted
    union all
    select s.at, s.at + n.step, c.level + 1,
      s.at + n.step <= v_last
        and (c.level = 2 or width_bucket(s.at, v_bounds) = width_bucket(s.at + n.step - v_instant, v_bounds))
        and exists (select from generation.counts as k where k.seconds = v_seconds[c.level + 1] and k.at = s.at)
        and not exists (select from generation.changed_minutes as m where m.at >= s.at and m.at < s.at + n.step)
    from cells as c
    cross join lateral (select make_interval(secs => v_seconds[c.level + 1]) as step) as n
    cross join lateral generate_series(c.at, least(c.until, v_until) - v_instant, n.step) as s (at)
    where c.level < 3 and not c.is_counted
  ), used as materialized (
    select c.at, c.until, c.level, c.is_counted, 4 - width_bucket(c.at, v_bounds) as first
    from cells as c where (c.is_counted or c.level = 3) and width_bucket(c.at, v_bounds) > 0
  ), gaps as (  -- minutes without a counter: in the last hour each by itself, before that those of an hour that follow each other
    select u.first, min(u.at) as at, max(u.until) as until
    from (
      select m.*, m.at - row_number() over (order by m.at) * interval '1 minute' as island from used as m where not m.is_counted
    ) as u
    group by u.first, date_bin('1 hour', u.at, 'epoch'), u.island, case when u.until > v_last - interval '1 hour' then u.at end
    union all  -- what a clock that was ahead has left
    select 1, f.at, f.until from (values (v_until, v_next_hour), (v_next_hour, 'infinity')) as f (at, until)
  ), spans as materialized (
    select s.*, row_number() over () as place
    from (
      select g.first, 3 as last, g.at, g.until from gaps as g
      union all
      select 4 - b.place::integer, 4 - b.place::integer, b.at, date_bin('1 minute', b.at - v_instant, 'epoch') + interval '1 minute'
      from unnest(v_bounds) with ordinality as b (at, place)
    ) as s
  )
  select u.first, 3, true, k.counts
  from used as u
  cross join lateral (
    select c as counts from generation.counts as c where c.seconds = v_seconds[u.level] and c.at = u.at offset 0
  ) as k
  where u.is_counted
  union all
  select s.first, s.last, false, e.counts
  from generation.count_ended(
    array(select s.at from spans as s order by s.place), array(select s.until from spans as s order by s.place)) as e
  join spans as s on s.place = e.place;
end
$$;

-- What ended lately: {windows: [{name, seconds, jobs: {completed, failed, cancelled}, images: {completed, refused},
-- jobSeconds, imageMs: {p50, p95, p99}, failuresByCode, refusalsByCode}], series: {minutes, hours: [{at, jobsCompleted,
-- jobsFailed, imagesCompleted, imagesRefused, jobSeconds: {mean, max}, imageMs: {mean, max}}]}}. The windows end now. The
-- series have 60 minutes and 24 hours, oldest first, cut at the full ones in UTC, so that the last is under way. jobSeconds
-- is from the order to the end of completed jobs, imageMs what the calls to Gemini took that made an image; percentiles are by
-- nearest rank, to one percent.
create or replace function generation.flow_stats(p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan set jit = off set work_mem = '32MB'
as $$
declare
  v_last constant timestamptz := date_bin('1 minute', p_now, 'epoch');
  v_none constant jsonb := '{"p50": null, "p95": null, "p99": null}';
  v_untimed constant jsonb := '{"mean": null, "max": null}';
begin
  return (
    with parts as materialized (
      select p.first, p.last, p.is_counter, (p.counts).* from generation.parts_of_day(p_now) as p
    ), times as (
      select t.first, t.last, 'job' as kind, t.took, sum(t.n)::float8 as n
      from (select p.first, p.last, unnest(p."jobTimes") as took, unnest(p."jobTimeCounts") as n from parts as p) as t
      group by t.first, t.last, t.took
      union all
      select t.first, t.last, 'image', t.took, sum(t.n)::float8
      from (select p.first, p.last, unnest(p."imageTimes") as took, unnest(p."imageTimeCounts") as n from parts as p) as t
      group by t.first, t.last, t.took
    ), spread as (
      select t.kind, t.took, sum(t.n) filter (where t.first = 1) as n1, sum(t.n) filter (where 2 between t.first and t.last) as n2,
        sum(t.n) filter (where t.last = 3) as n3
      from times as t group by t.kind, t.took
    ), ranked as (  -- how many percent of the window's took that long at most
      select s.kind, s.took, sum(s.n1) over up * 100 / sum(s.n1) over kinds as percent1,
        sum(s.n2) over up * 100 / sum(s.n2) over kinds as percent2, sum(s.n3) over up * 100 / sum(s.n3) over kinds as percent3
      from spread as s window kinds as (partition by s.kind), up as (partition by s.kind order by s.took)
    ), quantiles as (  -- of each window the 50th, the 95th and the 99th percentile
      select r.kind, array[
        array[min(r.took) filter (where r.percent1 >= 50), min(r.took) filter (where r.percent1 >= 95),
          min(r.took) filter (where r.percent1 >= 99)],
        array[min(r.took) filter (where r.percent2 >= 50), min(r.took) filter (where r.percent2 >= 95),
          min(r.took) filter (where r.percent2 >= 99)],
        array[min(r.took) filter (where r.percent3 >= 50), min(r.took) filter (where r.percent3 >= 95),
          min(r.took) filter (where r.percent3 >= 99)]] as times
      from ranked as r group by r.kind
    ), codes as (
      select p.first, p.last, 'failed' as kind, f.key as code, f.value::integer as n
      from parts as p cross join lateral jsonb_each_text(p.failures) as f
      union all
      select p.first, p.last, 'refused', f.key, f.value::integer
      from parts as p cross join lateral jsonb_each_text(p.refusals) as f
    ), totals as (
      select w.i, c.kind, c.code, sum(c.n) as n
      from generate_series(1, 3) as w (i) join codes as c on w.i between c.first and c.last group by w.i, c.kind, c.code
    ), steps as (
      select k.name, k.step, date_bin(k.step, p_now, 'epoch') as last, date_bin(k.step, p_now, 'epoch') - k.before * k.step as first
      from (values ('minutes', interval '1 minute', 59), ('hours', interval '1 hour', 23)) as k (name, step, before)
    ), counted as (
      select 'hours' as name, p.at, p.completed, p.failed, p.made, p.refused, p.timed, p."jobMs", p."jobMsMost", p."imageMs",
        p."imageMsMost"
      from parts as p where p.last = 3
      union all
      select 'minutes', p.at, p.completed, p.failed, p.made, p.refused, p.timed, p."jobMs", p."jobMsMost", p."imageMs", p."imageMsMost"
      from parts as p where p.last = 3 and not p.is_counter
      union all
      select 'minutes', c.at, c.completed, c.failed, c.made, c.refused, c.timed, c."jobMs", c."jobMsMost", c."imageMs", c."imageMsMost"
      from generation.counts as c
      where c.seconds = 60 and c.at > v_last - interval '1 hour' and c.at < v_last
        and not exists (select from generation.changed_minutes as m where m.at = c.at)
    ), binned as (
      select k.name, date_bin(k.step, c.at, 'epoch') as at, sum(c.completed) as completed, sum(c.failed) as failed, sum(c.made) as made,
        sum(c.refused) as refused,
        jsonb_build_object('mean', round(sum(c."jobMs") / nullif(sum(c.completed), 0) / 1000, 1),
          'max', round(max(c."jobMsMost") / 1000.0, 1)) as job_seconds,
        jsonb_build_object('mean', round(sum(c."imageMs") / nullif(sum(c.timed), 0)), 'max', max(c."imageMsMost")) as image_ms
      from steps as k join counted as c on c.name = k.name and c.at >= k.first group by 1, 2
    )
    select jsonb_build_object('windows', (
        select jsonb_agg(jsonb_build_object('name', w.name, 'seconds', w.seconds,
          'jobs', jsonb_build_object('completed', n.completed, 'failed', n.failed, 'cancelled', n.cancelled),
          'images', jsonb_build_object('completed', n.made, 'refused', n.refused),
          'jobSeconds', coalesce((select jsonb_build_object('p50', q.times[w.i][1] / 10::float8, 'p95', q.times[w.i][2] / 10::float8,
            'p99', q.times[w.i][3] / 10::float8) from quantiles as q where q.kind = 'job'), v_none),
          'imageMs', coalesce((select jsonb_build_object('p50', q.times[w.i][1], 'p95', q.times[w.i][2], 'p99', q.times[w.i][3])
            from quantiles as q where q.kind = 'image'), v_none),
          'failuresByCode', (select coalesce(jsonb_object_agg(t.code, t.n), '{}') from totals as t where t.i = w.i and t.kind = 'failed'),
          'refusalsByCode', (select coalesce(jsonb_object_agg(t.code, t.n), '{}') from totals as t where t.i = w.i and t.kind = 'refused')
        ) order by w.i)
        from (values (1, '5m', 300), (2, '1h', 3600), (3, '24h', 86400)) as w (i, name, seconds)
        cross join lateral (
          select coalesce(sum(p.completed), 0) as completed, coalesce(sum(p.failed), 0) as failed,
            coalesce(sum(p.cancelled), 0) as cancelled, coalesce(sum(p.made), 0) as made, coalesce(sum(p.refused), 0) as refused
          from parts as p where w.i between p.first and p.last
        ) as n),
      'series', (
        select jsonb_object_agg(t.name, t.points) from (
          select k.name, jsonb_agg(jsonb_build_object('at', b.at, 'jobsCompleted', coalesce(n.completed, 0),
            'jobsFailed', coalesce(n.failed, 0), 'imagesCompleted', coalesce(n.made, 0),
            'imagesRefused', coalesce(n.refused, 0), 'jobSeconds', coalesce(n.job_seconds, v_untimed),
            'imageMs', coalesce(n.image_ms, v_untimed)) order by b.at) as points
          from steps as k
          cross join lateral generate_series(k.first, k.last, k.step) as b (at)
          left join binned as n on n.name = k.name and n.at = b.at
          group by k.name
        ) as t)));
end
$$;

-- A run: {id, startedAt, finishedAt, stopReason, problem}, where `problem` is what a person has to fix.
create or replace function generation.run_in_short(p_run generation.runs) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return jsonb_build_object('id', p_run.id, 'startedAt', p_run."startedAt", 'finishedAt', p_run."finishedAt",
    'stopReason', p_run.summary ->> 'stopReason', 'problem', p_run.summary ->> 'problem');
end
$$;

-- Runs: {active, lastHour, diedLastHour, secondsSinceLast, lastFinished: as run_in_short}. Of idle runs only some have a row
-- (record_idle_run). A run has died if its deadline has passed and it has not ended.
create or replace function generation.run_stats(p_now timestamptz) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'active', (select count(*) from generation.runs_at_once(p_now)),
    'lastHour', (select count(*) from generation.runs as r where r."startedAt" > p_now - interval '1 hour'),
    'diedLastHour', (select count(*) from generation.runs as r
      where r."finishedAt" is null and r."endsBy" <= p_now and r."endsBy" > p_now - interval '1 hour'),
    'secondsSinceLast', (select round(extract(epoch from p_now - max(r."startedAt")), 3) from generation.runs as r),
    'lastFinished', (
      select generation.run_in_short(r) from generation.runs as r where r."finishedAt" is not null order by r."startedAt" desc limit 1))
$$;

-- Why nothing may start, from generation_gate's answer: `paused`, `daily_cap` or `rate_limited`; null if something may. Gates that started
-- something today are considered, or all gates if none did: the gate of a model that is no longer used stays open.
create or replace function generation.held_by(p_gate jsonb) returns text
language sql immutable set search_path = ''
as $$
  select case when p_gate ->> 'pausedAt' is not null then 'paused'
    when count(*) filter (where g.one ->> 'closedBy' is null) = 0 then min(g.one ->> 'closedBy') end
  from jsonb_array_elements(p_gate -> 'gates') as g (one)
  where (g.one ->> 'startedToday')::integer > 0 or (p_gate ->> 'startedToday')::integer = 0
$$;

-- The queue in numbers, at one moment of the database's clock; times are UTC. {at, schemaVersion, ready, waiting,
-- rateLimited, processing, stale, oldestReadySeconds, nextAttemptInSeconds, lastDay: {completed, failed, cancelled,
-- failuresByCode}, gate: as generation_gate gives it, heldBy, models: those in use, warnings, lastRun, what depth_stats and
-- flow_stats give, runs: as run_stats}.
create or replace function generation.queue_stats() returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_now constant timestamptz := generation.clock();
  v_flow jsonb;
  v_day jsonb;
  v_gate jsonb;
  v_models jsonb;
begin
  v_flow := generation.flow_stats(v_now);
  v_day := v_flow #> '{windows, 2}';
  v_gate := public.generation_gate();
  select coalesce(jsonb_agg(to_jsonb(k) order by k.model), '[]') into v_models from generation.models_known(v_now) as k where k."inUse";
  -- What is large comes last, because `||` copies both sides.
  return generation.depth_stats(v_now) || jsonb_build_object(
    'at', v_now,
    'schemaVersion', generation.schema_version(),
    'nextAttemptInSeconds', generation.next_attempt_seconds(),
    'lastDay', v_day -> 'jobs' || jsonb_build_object('failuresByCode', v_day -> 'failuresByCode'),
    'gate', v_gate,
    'heldBy', generation.held_by(v_gate),
    'runs', generation.run_stats(v_now),
    'models', (select coalesce(jsonb_agg(jsonb_build_object('model', k -> 'model', 'dollars', k -> 'dollars',
        'announcedEnd', k -> 'announcedEnd', 'endsInDays', k -> 'endsInDays')), '[]') from jsonb_array_elements(v_models) as k),
    'warnings', generation.warnings(v_models) || generation.times_ahead(v_now),
    'lastRun', (select generation.run_in_short(r) from generation.runs as r order by r."startedAt" desc limit 1)) || v_flow;
end
$$;

-- The queue in numbers, as queue_stats returns them. First counts minutes that are over, at most two hours of them, so that this takes no
-- longer with more photos a day. Safe to repeat: changes nothing but counters.
create or replace function public.generation_queue_stats() returns jsonb
language plpgsql security definer set search_path = '' set timezone = 'UTC'
as $$
begin
  perform generation.require_service();
  perform generation.renew_plans();
  perform generation.roll_counts(120);
  return generation.queue_stats();
end
$$;
