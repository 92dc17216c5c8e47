-- The queue in numbers: one answer for `python -m worker status`, GET /status, GET /metrics and whoever watches in SQL.
--
-- Nothing here reads all finished rows. What has not ended is counted exactly, through the partial indexes; what has
-- ended only as far back as a day, through the indexes on when it did: at 60 images a minute, four each job, 86 400
-- photos and 21 600 jobs. Counters kept by settle and record would be read faster, but all workers would wait in
-- turn for their rows. Plans are made for the time in question, and are never worth compiling.

-- Jobs that have not ended: {due: {jobs, images, oldestSeconds}, nextRetryAt, nextTrySeconds: {waiting, rateLimited},
-- ages: {upToSeconds, pending, rateLimited, processing}}. Due is what is ready or whose retryAt has come; ages are times
-- since the order. `ages` has for each status one count per bound: not older than that, and older than the bound before;
-- the last has none. An image is due while it is neither made nor given up, which only a job that was claimed before can
-- have been.
create or replace function generation.depth_stats(p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = force_custom_plan set jit = off
as $$
begin
  return (
    with open as materialized (
      select q.id, q."batchId", 'pending' as status, q."numImagesPerExample" as images, q."retryAt" as retry_at, q."createdAt" as since, q.claims
      from public.photo_generation_queue as q where q.status = 'pending' and q."retryAt" is null
      union all
      select q.id, q."batchId", q.status, q."numImagesPerExample", q."retryAt", q."createdAt", q.claims
      from public.photo_generation_queue as q where q."retryAt" is not null and q.status in ('pending', 'rate_limited')
      union all
      select q.id, q."batchId", q.status, q."numImagesPerExample", q."retryAt", q."createdAt", q.claims
      from public.photo_generation_queue as q where q.status = 'processing'
    ), due as materialized (
      select o.* from open as o where o.status <> 'processing' and (o.retry_at is null or o.retry_at <= p_now)
    ), aged as (
      select o.status, 7 - width_bucket(extract(epoch from o.since - p_now)::double precision,
        '{-86400, -21600, -3600, -1800, -300, -60}'::double precision[]) as i
      from open as o
    ), counted as (
      select b.i, count(*) filter (where a.status = 'pending') as pending,
        count(*) filter (where a.status = 'rate_limited') as rate_limited,
        count(*) filter (where a.status = 'processing') as processing
      from generate_series(1, 7) as b (i) left join aged as a on a.i = b.i
      group by b.i
    )
    select jsonb_build_object(
      'due', (select jsonb_build_object('jobs', count(*), 'images', coalesce(sum(d.images - case when d.claims = 0 then 0 else
          (select count(*) from public.photo_generation_photos as p where p."batchId" = d."batchId" and p."jobId" = d.id)
          + (select count(*) from generation.failed_images as f where f."batchId" = d."batchId" and f."jobId" = d.id) end), 0),
          'oldestSeconds', round(extract(epoch from p_now - min(d.since)), 3)) from due as d),
      'nextRetryAt', (select min(o.retry_at) from open as o where o.retry_at > p_now),
      'nextTrySeconds', (select jsonb_build_object(
          'waiting', round(extract(epoch from min(greatest(o.retry_at, p_now)) filter (where o.status = 'pending') - p_now), 3),
          'rateLimited', round(extract(epoch from min(greatest(o.retry_at, p_now)) filter (where o.status = 'rate_limited') - p_now), 3))
        from open as o where o.retry_at is not null),
      'ages', (select jsonb_build_object('upToSeconds', '[60, 300, 1800, 3600, 21600, 86400, null]'::jsonb,
          'pending', jsonb_agg(c.pending order by c.i), 'rateLimited', jsonb_agg(c.rate_limited order by c.i),
          'processing', jsonb_agg(c.processing order by c.i)) from counted as c)));
end
$$;

-- What ended lately: {windows: [{name, seconds, jobs: {completed, failed, cancelled}, images: {completed, refused},
-- jobSeconds, imageMs: {p50, p95, p99}, failuresByCode, refusalsByCode}], series: {minutes, hours: [{at, jobsCompleted,
-- jobsFailed, imagesCompleted, imagesRefused, jobSeconds: {mean, max}, imageMs: {mean, max}}]}}. The windows end now. The
-- series have 60 minutes and 24 hours, oldest first, cut at the full ones in UTC, so that the last is under way. jobSeconds
-- is from the order to the end of completed jobs, to a tenth, imageMs what the calls to Gemini took that made an image, to
-- 10 ms in the windows; percentiles are by nearest rank. Each table is read once, straight into counts by minute and by time
-- taken.
create or replace function generation.flow_stats(p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = force_custom_plan set jit = off set work_mem = '32MB'
as $$
declare
  v_5m constant timestamptz := p_now - interval '300 seconds';
  v_1h constant timestamptz := p_now - interval '3600 seconds';
  v_24h constant timestamptz := p_now - interval '86400 seconds';
  v_none constant jsonb := '{"p50": null, "p95": null, "p99": null}';
  v_untimed constant jsonb := '{"mean": null, "max": null}';
begin
  return (
    with recursive models as (
      (select p.model from public.photo_generation_photos as p order by p.model limit 1)
      union all
      select (select p.model from public.photo_generation_photos as p where p.model > m.model order by p.model limit 1)
      from models as m where m.model is not null
    ), jobs as (
      select q.status as kind, case when q.status = 'failed' then coalesce(q."errorCode", 'unknown') end as code,
        date_bin('1 minute', q."completedAt", 'epoch') as at, count(*) as n, grouping(q.status) as timed,
        case when q."completedAt" > v_5m then 1 when q."completedAt" > v_1h then 2 else 3 end as age,
        case when q.status = 'completed' then round(date_part('epoch', q."completedAt" - q."createdAt") * 10) / 10 end as took,
        sum(date_part('epoch', q."completedAt" - q."createdAt")) as total, max(date_part('epoch', q."completedAt" - q."createdAt")) as most
      from public.photo_generation_queue as q where q."completedAt" > v_24h
      group by grouping sets ((6, 1, 2, 3, q.status), (6, 7))
    ), images as (
      select date_bin('1 minute', p."createdAt", 'epoch') as at, count(*) as n, grouping((p."generationMs" + 5) / 10 * 10) as counted,
        case when p."createdAt" > v_5m then 1 when p."createdAt" > v_1h then 2 else 3 end as age,
        (p."generationMs" + 5) / 10 * 10 as took, count(p."generationMs") as known, sum(p."generationMs") as total,
        max(p."generationMs") as most
      from models as m cross join lateral (
        select p."createdAt", p."generationMs" from public.photo_generation_photos as p
        where p.model = m.model and p."createdAt" > v_24h offset 0
      ) as p
      group by grouping sets ((4, 1), (4, (p."generationMs" + 5) / 10 * 10))
    ), counts as materialized (
      select j.kind, j.code, j.at, j.n, j.age, j.n as known, j.total, j.most from jobs as j where j.timed = 0
      union all
      select 'made', null, i.at, i.n, i.age, i.known, i.total, i.most from images as i where i.counted = 1
      union all
      select 'refused', f.code, date_bin('1 minute', f."createdAt", 'epoch'), count(*),
        case when f."createdAt" > v_5m then 1 when f."createdAt" > v_1h then 2 else 3 end, 0, null, null
      from generation.failed_images as f where f."createdAt" > v_24h group by 2, 3, 5
    ), ranked as (
      select w.i, t.kind, t.took, sum(t.n) over (partition by w.i, t.kind order by t.took) as rank,
        sum(t.n) over (partition by w.i, t.kind) as of
      from (
        select 'job' as kind, j.took, j.n, j.age from jobs as j where j.timed = 1 and j.took is not null
        union all
        select 'image', i.took, i.n, i.age from images as i where i.counted = 0 and i.took is not null
      ) as t join generate_series(1, 3) as w (i) on t.age <= w.i
    ), quantiles as (
      select r.i, r.kind, jsonb_build_object('p50', min(r.took) filter (where r.rank >= 0.5 * r.of),
        'p95', min(r.took) filter (where r.rank >= 0.95 * r.of), 'p99', min(r.took) filter (where r.rank >= 0.99 * r.of)) as q
      from ranked as r group by r.i, r.kind
    ), totals as (
      select w.i, c.kind, c.code, sum(c.n) as n from generate_series(1, 3) as w (i) join counts as c on c.age <= w.i group by 1, 2, 3
    ), steps as (
      select k.name, k.step, date_bin(k.step, p_now, 'epoch') as last, date_bin(k.step, p_now, 'epoch') - k.before * k.step as first
      from (values ('minutes', interval '1 minute', 59), ('hours', interval '1 hour', 23)) as k (name, step, before)
    ), binned as (
      select k.name, date_bin(k.step, c.at, 'epoch') as at, sum(c.n) filter (where c.kind = 'completed') as completed,
        sum(c.n) filter (where c.kind = 'failed') as failed, sum(c.n) filter (where c.kind = 'made') as made,
        sum(c.n) filter (where c.kind = 'refused') as refused,
        jsonb_build_object('mean', round((sum(c.total) filter (where c.kind = 'completed') / sum(c.known) filter (where c.kind = 'completed'))::numeric, 1),
          'max', round((max(c.most) filter (where c.kind = 'completed'))::numeric, 1)) as job_seconds,
        jsonb_build_object('mean', round((sum(c.total) filter (where c.kind = 'made') / nullif(sum(c.known) filter (where c.kind = 'made'), 0))::numeric),
          'max', max(c.most) filter (where c.kind = 'made')) as image_ms
      from steps as k join counts as c on c.at >= k.first group by 1, 2
    )
    select jsonb_build_object('windows', (
        select jsonb_agg(jsonb_build_object('name', w.name, 'seconds', w.seconds,
          'jobs', jsonb_build_object('completed', n.completed, 'failed', n.failed, 'cancelled', n.cancelled),
          'images', jsonb_build_object('completed', n.made, 'refused', n.refused),
          'jobSeconds', coalesce((select q.q from quantiles as q where q.i = w.i and q.kind = 'job'), v_none),
          'imageMs', coalesce((select q.q from quantiles as q where q.i = w.i and q.kind = 'image'), v_none),
          'failuresByCode', n.failures, 'refusalsByCode', n.refusals) order by w.i)
        from (values (1, '5m', 300), (2, '1h', 3600), (3, '24h', 86400)) as w (i, name, seconds)
        cross join lateral (
          select coalesce(sum(t.n) filter (where t.kind = 'completed'), 0) as completed,
            coalesce(sum(t.n) filter (where t.kind = 'failed'), 0) as failed,
            coalesce(sum(t.n) filter (where t.kind = 'cancelled'), 0) as cancelled,
            coalesce(sum(t.n) filter (where t.kind = 'made'), 0) as made,
            coalesce(sum(t.n) filter (where t.kind = 'refused'), 0) as refused,
            coalesce(jsonb_object_agg(t.code, t.n) filter (where t.kind = 'failed'), '{}') as failures,
            coalesce(jsonb_object_agg(t.code, t.n) filter (where t.kind = 'refused'), '{}') as refusals
          from totals as t where t.i = w.i
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
-- problem}}, where `problem` is what a person has to mend. Idle runs are kept only where that is news (note_idle_run);
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
        where q."retryAt" > t.now + generation.most_ahead('public.photo_generation_queue', 'retryAt') and q.status in ('pending', 'rate_limited')
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
-- Safe to repeat: reads only.
create or replace function public.generation_queue_stats() returns jsonb
language plpgsql stable security definer set search_path = '' set timezone = 'UTC'
as $$
declare
  v_now constant timestamptz := generation.clock();
  v_flow jsonb;
  v_day jsonb;
  v_gate jsonb;
  v_models jsonb;
begin
  perform generation.require_service();
  v_flow := generation.flow_stats(v_now);
  v_day := v_flow #> '{windows, 2}';
  v_gate := public.generation_gate();
  select coalesce(jsonb_agg(to_jsonb(k) order by k.model), '[]') into v_models from generation.models_known(v_now) as k where k."inUse";
  return generation.depth_stats(v_now) || v_flow || jsonb_build_object(
    'at', v_now,
    'schemaVersion', generation.schema_version(),
    'ready', (select count(*) from public.photo_generation_queue as q
      where q.status = 'pending' and q."retryAt" is null),
    'waiting', (select count(*) from public.photo_generation_queue as q
      where q.status = 'pending' and q."retryAt" is not null),
    'rateLimited', (select count(*) from public.photo_generation_queue as q
      where q.status = 'rate_limited' and q."retryAt" is not null),
    'processing', (select count(*) from public.photo_generation_queue as q where q.status = 'processing'),
    'stale', (select count(*) from public.photo_generation_queue as q
      where q.status = 'processing' and q."leaseExpiresAt" <= v_now),
    'oldestReadySeconds', (select round(extract(epoch from v_now - min(q."createdAt"))::numeric, 1)
      from public.photo_generation_queue as q where q.status = 'pending' and q."retryAt" is null),
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
