-- The queue in numbers: one answer for `python -m worker status`, GET /status, GET /metrics and whoever watches in SQL.
--
-- Nothing here reads all finished rows. What has not ended is counted through the partial indexes, what has ended within a day
-- by minutes and hours (79_counts.sql). No plan is worth compiling.

-- Jobs that have not ended: {ready, waiting, rateLimited, processing, stale, oldestReadySeconds, due: {jobs, images, oldestSeconds},
-- nextRetryAt, nextTrySeconds: {waiting, rateLimited}, ages: {upToSeconds, pending, rateLimited, processing}}. Due is what is ready
-- or whose retryAt has come; ages are times since the order. `ages` has for each status one count per bound: not older than that, and
-- older than the bound before; the last has none. An image is due while it is neither made nor given up, which only a job that was
-- claimed before can have been.
create or replace function generation.depth_stats(p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
  v_bounds constant timestamptz[] := array[p_now - interval '24 hours', p_now - interval '6 hours', p_now - interval '1 hour',
    p_now - interval '30 minutes', p_now - interval '5 minutes', p_now - interval '1 minute'];
begin
  return (
    with open as materialized (
      select q.id, q."batchId", 'ready' as state, q."numImagesPerExample" as images, q."retryAt" as retry_at, q."createdAt" as since,
        q.claims, q."leaseExpiresAt" as leased_until
      from generation.ready_jobs as q
      union all
      select q.id, q."batchId", q.status, q."numImagesPerExample", q."retryAt", q."createdAt", q.claims, null
      from generation.waiting_jobs as q
      union all
      select q.id, q."batchId", q.status, q."numImagesPerExample", q."retryAt", q."createdAt", q.claims, q."leaseExpiresAt"
      from generation.held_jobs as q
    ), begun as materialized (
      select o.id, o."batchId" from open as o where o.claims > 0 and o.state <> 'processing' and (o.retry_at is null or o.retry_at <= p_now)
    ), grouped as materialized (
      select o.state, o.retry_at <= p_now or o.state = 'ready' as due, 7 - width_bucket(o.since, v_bounds) as age, count(*) as n,
        sum(o.images) as images, min(o.since) as since, min(o.retry_at) as retry_at,
        count(*) filter (where o.leased_until <= p_now) as stale
      from open as o group by 1, 2, 3
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

-- What ended lately: {windows: [{name, seconds, jobs: {completed, failed, cancelled}, images: {completed, refused},
-- jobSeconds, imageMs: {p50, p95, p99}, failuresByCode, refusalsByCode}], series: {minutes, hours: [{at, jobsCompleted,
-- jobsFailed, imagesCompleted, imagesRefused, jobSeconds: {mean, max}, imageMs: {mean, max}}]}}. The windows end now. The
-- series have 60 minutes and 24 hours, oldest first, cut at the full ones in UTC, so that the last is under way. jobSeconds
-- is from the order to the end of completed jobs, imageMs what the calls to Gemini took that made an image; percentiles are by
-- nearest rank, to one percent. What counters there are comes from them (79_counts.sql), the rest is counted by count_ended.
create or replace function generation.flow_stats(p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan set jit = off set work_mem = '32MB'
as $$
declare
  v_last constant timestamptz := date_bin('1 minute', p_now, 'epoch');
  v_none constant jsonb := '{"p50": null, "p95": null, "p99": null}';
  v_untimed constant jsonb := '{"mean": null, "max": null}';
begin
  return (
    with ages as (  -- 1: within 5 minutes; 2: within an hour, but not 1; 3: within a day, but neither. The beginnings are not included.
      select 4 - a.i as age, p_now - a.since + interval '1 microsecond' as since,
        coalesce(p_now - lead(a.since) over (order by a.i) + interval '1 microsecond', 'infinity') as until
      from (values (1, interval '24 hours'), (2, interval '1 hour'), (3, interval '5 minutes')) as a (i, since)
    ), changed as materialized (
      select c.at from generation.changed_minutes as c group by c.at
    ), hours as materialized (
      select c.* from generation.counts as c
      where c.seconds = 3600 and c.at > p_now - interval '24 hours' and c.at <= v_last - interval '2 hours'
        and not exists (select from changed as m where date_bin('1 hour', m.at, 'epoch') = c.at)
    ), minutes as materialized (
      select m.at, a.age, greatest(m.at, a.since) as since, least(m.until, a.until) as until,
        m.at >= a.since and m.until <= a.until and m.until <= v_last
          and exists (select from generation.counts as c where c.seconds = 60 and c.at = m.at)
          and not exists (select from changed as d where d.at = m.at) as counted
      from (
        select g.hour + make_interval(mins => i) as at, g.hour + make_interval(mins => i + 1) as until
        from generate_series(date_bin('1 hour', p_now - interval '24 hours', 'epoch'), v_last, '1 hour') as g (hour)
        cross join generate_series(0, 59) as i
        where not exists (select from hours as h where h.at = g.hour)
        union all  -- what a clock that was ahead has left
        select date_bin('1 hour', v_last, 'epoch') + interval '1 hour', 'infinity'
      ) as m
      join ages as a on m.at < a.until and m.until > a.since
    ), gaps as (  -- what is not counted: each minute of the last hour, and elsewhere those that follow each other within an hour
      select min(u.at) as at, u.age, min(u.since) as since, max(u.until) as until
      from (
        select m.*, m.at - row_number() over (order by m.at, m.age desc) * interval '1 minute' as island
        from minutes as m where not m.counted
      ) as u
      group by u.age, date_bin('1 hour', u.at, 'epoch'), u.island,
        case when u.until > v_last - interval '1 hour' and u.at <= v_last then u.since end
    ), counts as materialized (
      select 3 as age, h.* from hours as h
      union all
      select m.age, k.* from minutes as m
      cross join lateral (select c.* from generation.counts as c where c.seconds = 60 and c.at = m.at offset 0) as k
      where m.counted
      union all
      select g.age, c.* from gaps as g cross join lateral generation.count_ended(g.at, g.since, g.until) as c
    ), times as (
      select t.age, 'job' as kind, t.took, sum(t.n) as n
      from (select c.age, unnest(c."jobTimes") as took, unnest(c."jobTimeCounts") as n from counts as c) as t group by t.age, t.took
      union all
      select t.age, 'image', t.took, sum(t.n)
      from (select c.age, unnest(c."imageTimes") as took, unnest(c."imageTimeCounts") as n from counts as c) as t group by t.age, t.took
    ), ranked as (
      select w.i, t.kind, t.took, sum(sum(t.n)) over (partition by w.i, t.kind order by t.took) as rank,
        sum(sum(t.n)) over (partition by w.i, t.kind) as of
      from times as t join generate_series(1, 3) as w (i) on t.age <= w.i
      group by w.i, t.kind, t.took
    ), quantiles as (
      select r.i, r.kind, min(r.took) filter (where r.rank >= 0.5 * r.of) as p50, min(r.took) filter (where r.rank >= 0.95 * r.of) as p95,
        min(r.took) filter (where r.rank >= 0.99 * r.of) as p99
      from ranked as r group by r.i, r.kind
    ), codes as (
      select c.age, 'failed' as kind, f.key as code, f.value::integer as n
      from counts as c cross join lateral jsonb_each_text(c.failures) as f
      union all
      select c.age, 'refused', f.key, f.value::integer
      from counts as c cross join lateral jsonb_each_text(c.refusals) as f
    ), totals as (
      select w.i, c.kind, c.code, sum(c.n) as n from generate_series(1, 3) as w (i) join codes as c on c.age <= w.i group by 1, 2, 3
    ), steps as (
      select k.name, k.step, date_bin(k.step, p_now, 'epoch') as last, date_bin(k.step, p_now, 'epoch') - k.before * k.step as first
      from (values ('minutes', interval '1 minute', 59), ('hours', interval '1 hour', 23)) as k (name, step, before)
    ), binned as (
      select k.name, date_bin(k.step, c.at, 'epoch') as at, sum(c.completed) as completed, sum(c.failed) as failed, sum(c.made) as made,
        sum(c.refused) as refused,
        jsonb_build_object('mean', round(sum(c."jobMs") / nullif(sum(c.completed), 0) / 1000, 1),
          'max', round(max(c."jobMsMost") / 1000.0, 1)) as job_seconds,
        jsonb_build_object('mean', round(sum(c."imageMs") / nullif(sum(c.timed), 0)), 'max', max(c."imageMsMost")) as image_ms
      from steps as k join counts as c on c.at >= k.first group by 1, 2
    )
    select jsonb_build_object('windows', (
        select jsonb_agg(jsonb_build_object('name', w.name, 'seconds', w.seconds,
          'jobs', jsonb_build_object('completed', n.completed, 'failed', n.failed, 'cancelled', n.cancelled),
          'images', jsonb_build_object('completed', n.made, 'refused', n.refused),
          'jobSeconds', coalesce((select jsonb_build_object('p50', q.p50 / 10::float8, 'p95', q.p95 / 10::float8, 'p99', q.p99 / 10::float8)
            from quantiles as q where q.i = w.i and q.kind = 'job'), v_none),
          'imageMs', coalesce((select jsonb_build_object('p50', q.p50, 'p95', q.p95, 'p99', q.p99)
            from quantiles as q where q.i = w.i and q.kind = 'image'), v_none),
          'failuresByCode', (select coalesce(jsonb_object_agg(t.code, t.n), '{}') from totals as t where t.i = w.i and t.kind = 'failed'),
          'refusalsByCode', (select coalesce(jsonb_object_agg(t.code, t.n), '{}') from totals as t where t.i = w.i and t.kind = 'refused')
        ) order by w.i)
        from (values (1, '5m', 300), (2, '1h', 3600), (3, '24h', 86400)) as w (i, name, seconds)
        cross join lateral (
          select coalesce(sum(c.completed), 0) as completed, coalesce(sum(c.failed), 0) as failed,
            coalesce(sum(c.cancelled), 0) as cancelled, coalesce(sum(c.made), 0) as made, coalesce(sum(c.refused), 0) as refused
          from counts as c where c.age <= w.i
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

-- Runs: {active, lastHour, diedLastHour, secondsSinceLast, lastFinished: {id, startedAt, finishedAt, stopReason,
-- problem}}, where `problem` is what a person has to fix. Idle runs are kept only where that is news (record_idle_run);
-- one died that has passed its deadline without an end.
create or replace function generation.run_stats(p_now timestamptz) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object(
    'active', (select count(*) from generation.runs_at_once(p_now)),
    'lastHour', (select count(*) from generation.runs as r where r."startedAt" > p_now - interval '1 hour'),
    'diedLastHour', (select count(*) from generation.runs as r
      where r."finishedAt" is null and r."endsBy" <= p_now and r."endsBy" > p_now - interval '1 hour'),
    'secondsSinceLast', (select round(extract(epoch from p_now - max(r."startedAt")), 3) from generation.runs as r),
    'lastFinished', (select jsonb_build_object('id', r.id, 'startedAt', r."startedAt", 'finishedAt', r."finishedAt",
        'stopReason', r.summary ->> 'stopReason', 'problem', r.summary ->> 'problem')
      from generation.runs as r where r."finishedAt" is not null order by r."startedAt" desc limit 1))
$$;

-- Why nothing may start, of generation_gate's answer: `paused`, `daily_cap` or `rate_limited`; null while something may.
-- Gates that started nothing today hold nobody up, unless none did: that of a model nobody uses any more stays open.
create or replace function generation.held_by(p_gate jsonb) returns text
language sql immutable set search_path = ''
as $$
  select case when p_gate ->> 'pausedAt' is not null then 'paused'
    when count(*) filter (where g.one ->> 'closedBy' is null) = 0 then min(g.one ->> 'closedBy') end
  from jsonb_array_elements(p_gate -> 'gates') as g (one)
  where (g.one ->> 'startedToday')::integer > 0 or (p_gate ->> 'startedToday')::integer = 0
$$;

-- What wants a person's attention though nothing has failed: [{about, subject, words}]. `model`: a model in use whose
-- announced end is near or past. p_models are those in use.
create or replace function generation.warnings(p_models jsonb) returns jsonb
language sql immutable set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object('about', 'model', 'subject', k ->> 'model', 'words', k ->> 'warning')), '[]')
  from jsonb_array_elements(p_models) as k
  where k ->> 'warning' is not null
$$;

-- What lies further ahead than it can, in words: [{about, subject, words}], one for each column; up to 1000 rows are counted. The
-- next run moves it, but for a wait that has no beginning: that one a person has set, or an installation before this one.
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
  return generation.depth_stats(v_now) || v_flow || jsonb_build_object(
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
    'lastRun', (select jsonb_build_object('id', r.id, 'startedAt', r."startedAt", 'finishedAt', r."finishedAt",
        'stopReason', r.summary ->> 'stopReason', 'problem', r.summary ->> 'problem')
      from generation.runs as r order by r."startedAt" desc limit 1));
end
$$;

-- The queue in numbers: queue_stats. First it counts minutes that are over, two hours of them at most, so that the numbers do not
-- take longer with the photos of the day. Safe to repeat: changes nothing but counters.
create or replace function public.generation_queue_stats() returns jsonb
language plpgsql security definer set search_path = '' set timezone = 'UTC'
as $$
begin
  perform generation.require_service();
  perform generation.roll_counts(120);
  return generation.queue_stats();
end
$$;
