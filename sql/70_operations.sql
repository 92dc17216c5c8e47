-- What operators, apps and the status page call. Refusals: PT400 (a parameter), PT404 (`no_such_batch`, also
-- for somebody else's). Only cancel and get_generation_batch are open to signed-in users, for their own batches.

-- The version of this schema; a worker refuses to work with another one.
-- Returns {version, functions: the names of the functions that are there}. Safe to repeat: reads only.
create or replace function public.generation_schema_version() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object('version', 1, 'functions', (
    select jsonb_agg(distinct p.proname order by p.proname)
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace and p.proname in (
      'enqueue_generation_batch', 'claim_generation_jobs', 'record_generated_photo', 'record_failed_image',
      'settle_generation_jobs', 'finish_generation_run', 'generation_schema_version', 'get_generation_batch',
      'cancel_generation_batch', 'release_stale_generation_jobs', 'retry_failed_generation_jobs',
      'peek_generation_jobs', 'generation_queue_stats', 'set_generation_model_successor')))
$$;

-- Refuses a batch that does not exist, or that a signed-in caller does not own: PT404 for both, so that
-- nobody learns which ids exist.
create or replace function generation.check_batch_access(p_batch_id text) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if not exists (
    select from public.photo_generation_batches as b
    where b.id = p_batch_id and (
      not generation.caller_is_user()
      or b."userId" = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  ) then
    perform generation.refuse('404', 'no_such_batch', 'there is no such batch', 'Check the batch id.');
  end if;
end
$$;

-- A batch with its jobs and photos: {batch, jobs: [{id, status, exampleImageId, errorCode, errorMessage,
-- retryAt}], photos: [{jobId, imageIndex, storagePath, mimeType, width, height}]}.
-- Errors: PT404. Safe to repeat: reads only.
create or replace function public.get_generation_batch(p_batch_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.check_batch_access(p_batch_id);
  return jsonb_build_object(
    'batch', (select to_jsonb(b) from public.photo_generation_batches as b where b.id = p_batch_id),
    'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object('id', q.id, 'status', q.status, 'exampleImageId', q."exampleImageId",
        'errorCode', q."errorCode", 'errorMessage', q."errorMessage", 'retryAt', q."retryAt") order by q.id), '[]')
      from public.photo_generation_queue as q where q."batchId" = p_batch_id),
    'photos', (
      select coalesce(jsonb_agg(jsonb_build_object('jobId', p."jobId", 'imageIndex', p."imageIndex",
        'storagePath', p."storagePath", 'mimeType', p."mimeType", 'width', p.width, 'height', p.height)
        order by p."jobId", p."imageIndex"), '[]')
      from public.photo_generation_photos as p where p."batchId" = p_batch_id));
end
$$;

-- Cancels every job of a batch that has not ended. Photos already made stay; what is being generated right
-- now is discarded when its worker comes to record it. Returns {batchId, status, jobsCancelled}; a batch that
-- has ended stays as it is. Errors: PT404. Locks: jobs by id, then the batch. Safe to repeat.
create or replace function public.cancel_generation_batch(p_batch_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_cancelled integer;
  v_status text;
begin
  perform generation.check_batch_access(p_batch_id);
  perform 1 from public.photo_generation_queue as q
  where q."batchId" = p_batch_id order by q.id for no key update;
  update public.photo_generation_queue as q
  set status = 'cancelled', "completedAt" = generation.clock(), "retryAt" = null,
    "lockedBy" = null, "lockedAt" = null, "leaseExpiresAt" = null
  where q."batchId" = p_batch_id and q.status in ('pending', 'processing', 'rate_limited');
  get diagnostics v_cancelled = row_count;
  update public.photo_generation_batches as b
  set status = 'cancelled', "completedAt" = generation.clock()
  where b.id = p_batch_id and b.status = 'generating' and v_cancelled > 0;
  select b.status into v_status from public.photo_generation_batches as b where b.id = p_batch_id;
  return jsonb_build_object('batchId', p_batch_id, 'status', v_status, 'jobsCancelled', v_cancelled);
end
$$;

-- Makes jobs ready whose lock is older than p_older_than_seconds, as the runbook's update does. Their workers
-- are fenced off; the attempt stays spent. Returns {released}. Locks: jobs by id. Safe to repeat.
create or replace function public.release_stale_generation_jobs(p_older_than_seconds numeric default 300)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_released integer;
begin
  with stale as (
    select q.id from public.photo_generation_queue as q
    where q.status = 'processing'
      and q."lockedAt" < generation.clock() - make_interval(secs => p_older_than_seconds::double precision)
    order by q.id for no key update
  )
  update public.photo_generation_queue as q
  set status = 'pending', "lockedBy" = null, "lockedAt" = null, "leaseExpiresAt" = null
  from stale where q.id = stale.id;
  get diagnostics v_released = row_count;
  return jsonb_build_object('released', v_released);
end
$$;

-- Takes up to p_limit failed jobs up again, of one batch or of all, with all their attempts; only the images
-- still missing are made. Jobs whose every missing image was refused are left alone unless
-- p_including_refused. Cancelled batches stay cancelled. Returns {retried}. Errors: PT404.
-- Locks: jobs by id, then batches by id. Safe to repeat: what is pending is not failed any more.
create or replace function public.retry_failed_generation_jobs(
  p_batch_id text default null, p_including_refused boolean default false, p_limit integer default 1000
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_ids bigint[];
  v_changes jsonb;
begin
  if p_batch_id is not null then
    perform generation.check_batch_access(p_batch_id);
  end if;
  select array_agg(f.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    join public.photo_generation_batches as b on b.id = q."batchId" and b.status <> 'cancelled'
    where q.status = 'failed' and (p_batch_id is null or q."batchId" = p_batch_id)
      and (p_including_refused or generation.missing_images(q.id, q."numImagesPerExample") <> '{}')
    order by q.id limit p_limit
    for no key update of q
  ) as f;
  -- A batch may have been cancelled while we waited for its jobs; from now on it waits for us.
  select array_agg(q.id) into v_ids from public.photo_generation_queue as q
  join public.photo_generation_batches as b on b.id = q."batchId" and b.status <> 'cancelled'
  where q.id = any (v_ids);
  select jsonb_agg(jsonb_build_object('batchId', q."batchId", 'jobsDone', 0, 'jobsFailed', -1, 'imagesFailed',
    -cardinality(generation.missing_images(q.id, q."numImagesPerExample")) - case when p_including_refused then (
      select count(*)::integer from generation.failed_images as f where f."jobId" = q.id) else 0 end)) into v_changes
  from public.photo_generation_queue as q where q.id = any (v_ids);
  if v_changes is null then
    return '{"retried": 0}';
  end if;
  if p_including_refused then
    delete from generation.failed_images as f where f."jobId" = any (v_ids);
  end if;
  update public.photo_generation_queue as q
  set status = 'pending', attempts = 0, crashes = 0, "retryAt" = null, "completedAt" = null,
    "errorCode" = null, "errorMessage" = null,
    "startTag" = greatest(q."startTag", generation.virtual_time(q.priority))
  where q.id = any (v_ids);
  perform generation.roll_up(v_changes);
  return jsonb_build_object('retried', cardinality(v_ids));
end
$$;

-- What the claim of a new run would find ready and take, and in which place: rescue_expired_leases,
-- promote_due_jobs and lock_ready_jobs as one query that changes nothing.
create or replace function generation.next_jobs(p_limit integer) returns table (id bigint, place bigint)
language sql stable rows 10 set search_path = ''
as $$
  with ready as not materialized (
    select q.id, q.priority, q."startTag" as tag, q.crashes from public.photo_generation_queue as q
    where q.status = 'pending' and q."retryAt" is null
  ), rescued as (
    select e.id, e.priority, e."startTag" as tag, e.crashes + 1 as crashes
    from (
      select q.* from public.photo_generation_queue as q
      where q.status = 'processing' and q."leaseExpiresAt" <= generation.clock()
      order by q."leaseExpiresAt" limit 100
    ) as e
    where generation.crash_code(e) is null
  ), candidates as (
    (select * from ready order by priority desc, tag, id limit 1)
    union
    (select * from ready where crashes = 0 order by priority desc, tag, id limit p_limit)
    union all
    select * from rescued
    union all
    (select q.id, q.priority, greatest(q."startTag", least(generation.virtual_time(q.priority),
        (select min(r.tag) from rescued as r where r.priority = q.priority))), q.crashes
      from public.photo_generation_queue as q
      where q."retryAt" <= generation.clock() and q.status in ('pending', 'rate_limited')
      order by q."retryAt" limit 1000)
  ), placed as (
    select c.id, c.crashes, row_number() over served as place, first_value(c.crashes) over served as head_crashes
    from candidates as c
    window served as (order by c.priority desc, c.tag, c.id)
  )
  select p.id, p.place from placed as p
  where case when p.head_crashes > 0 then p.place = 1 else p.crashes = 0 end
  order by p.place limit p_limit
$$;

-- What a new run's claim would hand out now, in order, without taking it: {jobs: [{id, batchId, status, priority,
-- attempts, images}], reason, nextAttemptInSeconds}. An image counts as long as it is not made or given up.
-- Errors: PT400. Safe to repeat: reads only.
create or replace function public.peek_generation_jobs(p_max_jobs integer default 10) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_jobs jsonb;
begin
  perform generation.check_claim('peek', gen_random_uuid(), p_max_jobs, 1);
  select jsonb_agg(jsonb_build_object('id', d.id, 'batchId', d."batchId", 'status', d.status, 'priority', d.priority,
    'attempts', d.attempts, 'images', cardinality(generation.missing_images(d.id, d."numImagesPerExample")))
    order by n.place) into v_jobs
  from generation.next_jobs(p_max_jobs) as n join public.photo_generation_queue as d on d.id = n.id;
  if v_jobs is null then
    return generation.nothing_claimed('peek');
  end if;
  return jsonb_build_object('jobs', v_jobs, 'reason', null, 'nextAttemptInSeconds', 0);
end
$$;

-- The queue in numbers: {ready, waiting, rateLimited, processing, stale, oldestReadySeconds,
-- nextAttemptInSeconds, lastDay: {completed, failed, cancelled, photos, failuresByCode}, lastRun}.
-- Reads through the partial indexes only, never the finished rows of former days. Safe to repeat.
create or replace function public.generation_queue_stats() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'ready', (select count(*) from public.photo_generation_queue as q
      where q.status = 'pending' and q."retryAt" is null),
    'waiting', (select count(*) from public.photo_generation_queue as q
      where q.status = 'pending' and q."retryAt" is not null),
    'rateLimited', (select count(*) from public.photo_generation_queue as q
      where q.status = 'rate_limited' and q."retryAt" is not null),
    'processing', (select count(*) from public.photo_generation_queue as q where q.status = 'processing'),
    'stale', (select count(*) from public.photo_generation_queue as q
      where q.status = 'processing' and q."leaseExpiresAt" <= generation.clock()),
    'oldestReadySeconds', (select round(extract(epoch from generation.clock() - min(q."createdAt"))::numeric, 1)
      from public.photo_generation_queue as q where q.status = 'pending' and q."retryAt" is null),
    'nextAttemptInSeconds', generation.next_attempt_seconds(),
    'lastDay', (
      select jsonb_build_object('completed', coalesce(sum(d.jobs) filter (where d.status = 'completed'), 0),
        'failed', coalesce(sum(d.jobs) filter (where d.status = 'failed'), 0),
        'cancelled', coalesce(sum(d.jobs) filter (where d.status = 'cancelled'), 0),
        'failuresByCode', coalesce(jsonb_object_agg(d.code, d.jobs) filter (where d.status = 'failed'), '{}'))
      from (
        select q.status, coalesce(q."errorCode", 'unknown') as code, count(*) as jobs
        from public.photo_generation_queue as q
        where q."completedAt" > generation.clock() - interval '24 hours'
        group by 1, 2
      ) as d),
    'lastRun', (select jsonb_build_object('id', r.id, 'startedAt', r."startedAt", 'finishedAt', r."finishedAt",
        'stopReason', r.summary ->> 'stopReason')
      from generation.runs as r order by r."startedAt" desc limit 1))
$$;

-- Remembers that a model has been shut down and which one takes its place, so that later runs ask the
-- successor at once. Returns {model, successor}; the first successor stands. p_successor null forgets it.
-- Safe to repeat.
create or replace function public.set_generation_model_successor(p_model text, p_successor text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_successor text;
begin
  if p_model is null or p_model = p_successor then
    perform generation.refuse('400', 'bad_successor', 'a model needs a name and cannot succeed itself', 'Name two different models.');
  end if;
  insert into generation.models as m (model, successor, "successorSince")
  values (p_model, p_successor, generation.clock())
  on conflict (model) do update
    set successor = case when p_successor is null then null else coalesce(m.successor, p_successor) end,
      "successorSince" = case when p_successor is null then null else coalesce(m."successorSince", generation.clock()) end
  returning m.successor into v_successor;
  return jsonb_build_object('model', p_model, 'successor', v_successor);
end
$$;
