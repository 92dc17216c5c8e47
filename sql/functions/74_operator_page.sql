-- What an operator's page shows beside the numbers of generation_queue_stats: the latest batches, jobs in trouble, runs and photos, and one
-- batch or job in detail. Refusals: PT400 (a parameter), PT404 (`no_such_order`).

-- Jobs that want a look, the latest first: {id, batchId, status, why, code, message, attempts, maxAttempts, crashes, at}.
-- `why` is failed (within a day), stale (its worker died), or struggling (it waits, and has crashed or has one attempt left).
create or replace function generation.jobs_in_trouble(p_limit integer) returns jsonb
language sql stable set search_path = ''
as $$
  with failed as (
    select q.*, 'failed' as why, q."completedAt" as at from public.photo_generation_queue as q
    where q.status = 'failed' and q."completedAt" > generation.clock() - interval '24 hours'
    order by q."completedAt" desc limit p_limit
  ), stale as (
    select q.*, 'stale' as why, q."lockedAt" as at from generation.held_jobs as q
    where q."leaseExpiresAt" <= generation.clock()
    order by q."leaseExpiresAt" limit p_limit
  ), waiting as (
    select q.* from generation.waiting_jobs as q
    order by q."retryAt" limit 1000
  ), struggling as (
    select w.*, 'struggling' as why, w."retryAt" as at from waiting as w
    where w.crashes > 0 or w.suspect or (w.attempts > 0 and w.attempts >= w."maxAttempts" - 1)
  ), found as (
    select * from failed union all select * from stale union all select * from struggling
    order by at desc, id desc limit p_limit
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', f.id, 'batchId', f."batchId", 'status', f.status, 'why', f.why,
    'code', f."errorCode", 'message', f."errorMessage", 'attempts', f.attempts, 'maxAttempts', f."maxAttempts",
    'crashes', f.crashes, 'at', f.at) order by f.at desc, f.id desc), '[]')
  from found as f
$$;

-- The latest runs: {id, workerId, startedAt, finishedAt, state, stopReason, problem, durationSeconds, claimed, completed,
-- failed, retried, rateLimited, images}; `state` is running, finished or died.
create or replace function generation.latest_runs(p_limit integer) returns jsonb
language sql stable set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object('id', r.id, 'workerId', r."workerId", 'startedAt', r."startedAt",
    'finishedAt', r."finishedAt", 'state', case
      when r."finishedAt" is not null then 'finished'
      when r."endsBy" > generation.clock() then 'running'
      else 'died'
    end,
    'stopReason', r.summary -> 'stopReason', 'problem', r.summary -> 'problem',
    'durationSeconds', r.summary -> 'durationSeconds', 'claimed', r.summary -> 'claimed',
    'completed', r.summary -> 'completed', 'failed', r.summary -> 'failed', 'retried', r.summary -> 'retried',
    'rateLimited', r.summary -> 'rateLimited', 'images', r.summary -> 'images' -> 'made')
    order by r."startedAt" desc), '[]')
  from (select * from generation.runs order by "startedAt" desc limit p_limit) as r
$$;

-- The latest p_limit batches, jobs that want a look, runs and photos: {at, batches: [{id, status, jobsTotal, jobsDone,
-- jobsFailed, imagesTotal, imagesDone, imagesFailed, createdAt, completedAt}], troubles, runs, photos: [{id, jobId, batchId,
-- imageIndex, storagePath, width, height, model, generationMs, createdAt}]}. Nothing tells whose they are, but the photos'
-- paths. Reads heads of indexes only.
-- Errors: PT400. Safe to repeat: reads only.
create or replace function public.generation_overview(p_limit integer default 20) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  if p_limit is null or p_limit not between 1 and 100 then
    perform generation.refuse('400', 'out_of_range', 'p_limit must be from 1 to 100', 'Ask for less.');
  end if;
  return jsonb_build_object(
    'at', generation.clock(),
    'batches', (
      select coalesce(jsonb_agg(jsonb_build_object('id', b.id, 'status', b.status, 'jobsTotal', b."jobsTotal",
        'jobsDone', b."jobsDone", 'jobsFailed', b."jobsFailed", 'imagesTotal', b."imagesTotal", 'imagesDone', b."imagesDone",
        'imagesFailed', b."imagesFailed", 'createdAt', b."createdAt", 'completedAt', b."completedAt")
        order by b."createdAt" desc, b.id), '[]')
      from (select * from public.photo_generation_batches order by "createdAt" desc limit p_limit) as b),
    'troubles', generation.jobs_in_trouble(p_limit),
    'runs', generation.latest_runs(p_limit),
    'photos', (
      select coalesce(jsonb_agg(jsonb_build_object('id', p.id, 'jobId', p."jobId", 'batchId', p."batchId",
        'imageIndex', p."imageIndex", 'storagePath', p."storagePath", 'width', p.width, 'height', p.height,
        'model', p.model, 'generationMs', p."generationMs", 'createdAt', p."createdAt") order by p.id desc), '[]')
      from (select * from public.photo_generation_photos order by id desc limit p_limit) as p));
end
$$;

-- A job with its images: {id, status, attempts, maxAttempts, crashes, claims, exampleImageId, retryAt, lockedBy, lockedAt,
-- leaseExpiresAt, errorCode, errorMessage, createdAt, startedAt, completedAt, images: [{index, state, storagePath, width,
-- height, model, generationMs, code, message, at}]}. An image's `state` is made, refused (given up) or missing.
create or replace function generation.job_details(p_job public.photo_generation_queue) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('id', p_job.id, 'status', p_job.status, 'attempts', p_job.attempts,
    'maxAttempts', p_job."maxAttempts", 'crashes', p_job.crashes, 'claims', p_job.claims,
    'exampleImageId', p_job."exampleImageId", 'retryAt', p_job."retryAt", 'lockedBy', p_job."lockedBy",
    'lockedAt', p_job."lockedAt", 'leaseExpiresAt', p_job."leaseExpiresAt", 'errorCode', p_job."errorCode",
    'errorMessage', p_job."errorMessage", 'createdAt', p_job."createdAt", 'startedAt', p_job."startedAt",
    'completedAt', p_job."completedAt", 'images', (
      select jsonb_agg(jsonb_build_object('index', i.index,
        'state', case when p.id is not null then 'made' when f."jobId" is not null then 'refused' else 'missing' end,
        'storagePath', p."storagePath", 'width', p.width, 'height', p.height, 'model', p.model,
        'generationMs', p."generationMs", 'code', case when p.id is null then f.code end,
        'message', case when p.id is null then f.message end, 'at', coalesce(p."createdAt", f."createdAt")) order by i.index)
      from generate_series(0, p_job."numImagesPerExample" - 1) as i (index)
      left join public.photo_generation_photos as p
        on p."jobId" = p_job.id and p."batchId" = p_job."batchId" and p."imageIndex" = i.index
      left join generation.failed_images as f
        on f."jobId" = p_job.id and f."batchId" = p_job."batchId" and f."imageIndex" = i.index))
$$;

-- A batch with its jobs, or one job with its batch, whichever has the id: {at, found, batch: {id, userId, status, counters,
-- createdAt, completedAt}, jobs: [as job_details gives each]}; `found` is batch or job. Of a batch come the first 200 jobs,
-- failed ones before others. Errors: PT400, PT404. Safe to repeat: reads only.
create or replace function public.generation_details(p_id text) returns jsonb
language plpgsql stable security definer set search_path = '' set timezone = 'UTC'
as $$
declare
  v_batch public.photo_generation_batches;
  v_job bigint;
begin
  perform generation.require_service();
  if coalesce(p_id, '') = '' then
    perform generation.refuse('400', 'missing', 'p_id is missing', 'Name a batch or a job.');
  end if;
  select b.* into v_batch from public.photo_generation_batches as b where b.id = p_id;
  if not found and p_id ~ '^[0-9]{1,18}$' then
    select q.id into v_job from public.photo_generation_queue as q where q.id = p_id::bigint;
    select b.* into v_batch from public.photo_generation_batches as b
    where b.id = (select q."batchId" from public.photo_generation_queue as q where q.id = v_job);
  end if;
  if v_batch.id is null then
    perform generation.refuse('404', 'no_such_order', 'there is no batch and no job with this id',
      'Check it; what ended long ago may have been pruned.');
  end if;
  return jsonb_build_object('at', generation.clock(), 'found', case when v_job is null then 'batch' else 'job' end,
    'batch', to_jsonb(v_batch), 'jobs', (
      select coalesce(jsonb_agg(generation.job_details(q) order by q.status = 'failed' desc, q.id), '[]')
      from (
        select s.* from public.photo_generation_queue as s
        where s."batchId" = v_batch.id and (v_job is null or s.id = v_job)
        order by s.status = 'failed' desc, s.id limit 200
      ) as q));
end
$$;
