-- Functions that only read: a batch, the version of the schema, the jobs that a claim would give. Errors: PT400 (a parameter), PT404
-- (`no_such_batch`, also for another user's batch). Only get_generation_batch is open to signed-in users, for their own batches.

-- The version of the schema: the highest migration that has run.
create or replace function generation.schema_version() returns integer
language plpgsql stable set search_path = ''
as $$
begin
  return (select max(m.number) from generation.schema_migrations as m);
end
$$;

-- The version of the schema, and everything else that `python -m worker check` compares with the worker's needs.
-- Returns {version, functions: names, functionsMissing, photoBuckets, photoHosts, storageRefused: see report_storage}.
-- Safe to repeat: reads only.
create or replace function public.generation_schema_version() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  return jsonb_build_object('version', generation.schema_version(),
    'functions', (select jsonb_agg(distinct f.name order by f.name) from generation.api_functions() as f),
    'functionsMissing', (
      select coalesce(jsonb_agg(split_part(f.signature, '(', 1) order by f.signature), '[]') from generation.function_callers() as f
      where to_regprocedure('public.' || f.signature) is null),
    'photoBuckets', (select coalesce(jsonb_agg(b.bucket order by b.bucket), '[]') from generation.photo_buckets as b),
    'photoHosts', generation.allowed_photo_hosts(),
    'storageRefused', (select l."storageRefused" from generation.limits as l));
end
$$;

-- A batch with its jobs and photos: {batch, jobs: [{id, status, exampleImageId, errorCode, errorMessage,
-- retryAt}], photos: [{jobId, imageIndex, storagePath, mimeType, width, height}]}.
-- Errors: PT404. Safe to repeat: reads only.
create or replace function public.get_generation_batch(p_batch_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_user();
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

-- The jobs that a new run's claim would take, with their places: rescue_expired_leases, promote_due_jobs and
-- lock_ready_jobs as one query that changes nothing.
create or replace function generation.next_jobs(p_limit integer) returns table (id bigint, place bigint)
language sql stable rows 10 set search_path = ''
as $$
  with ready as not materialized (
    select q.id, q.priority, q."startTag" as tag, q.suspect from generation.ready_jobs as q
  ), rescued as (
    select e.id, e.priority, e."startTag" as tag, true as suspect
    from (
      select q.* from generation.held_jobs as q
      where q."leaseExpiresAt" <= generation.clock()
      order by q."leaseExpiresAt" limit 100
    ) as e
    where generation.crash_code(e) is null
  ), due as (
    select q.id from generation.waiting_jobs as q where q."retryAt" <= generation.clock()
    order by q."retryAt" limit 1000
  ), promoted as (
    select t.id, t.priority, t.tag, q.suspect
    from generation.next_turns(array(select d.id from due as d), array(select r.id from rescued as r)) as t
    join public.photo_generation_queue as q on q.id = t.id
  ), candidates as (
    (select * from ready order by priority desc, tag, id limit 1)
    union
    (select * from ready where not suspect order by priority desc, tag, id limit p_limit)
    union all
    select * from rescued
    union all
    select * from promoted
  ), placed as (
    select c.id, c.suspect, row_number() over served as place, first_value(c.suspect) over served as suspect_first
    from candidates as c
    window served as (order by c.priority desc, c.tag, c.id)
  )
  select p.id, p.place from placed as p
  where case when p.suspect_first then p.place = 1 else not p.suspect end
  order by p.place limit p_limit
$$;

-- What a new run's claim would hand out now, in order, without taking it: {jobs: [{id, batchId, status, priority,
-- attempts, images}], reason, nextAttemptInSeconds}. `images` counts those that are neither made nor given up. The list includes
-- jobs that a claim would postpone because of their user's requests of the day (put_off_users).
-- Errors: PT400. Safe to repeat: reads only.
create or replace function public.peek_generation_jobs(p_max_jobs integer default 10) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
  v_jobs jsonb;
begin
  perform generation.require_service();
  perform generation.check_claim('peek', gen_random_uuid(), p_max_jobs, 1);
  select jsonb_agg(jsonb_build_object('id', d.id, 'batchId', d."batchId", 'status', d.status, 'priority', d.priority,
    'attempts', d.attempts, 'images', cardinality(generation.missing_images(d."batchId", d.id, d."numImagesPerExample")))
    order by n.place) into v_jobs
  from generation.next_jobs(p_max_jobs) as n join public.photo_generation_queue as d on d.id = n.id;
  if v_jobs is null then
    return generation.empty_claim(null);
  end if;
  return jsonb_build_object('jobs', v_jobs, 'reason', null, 'nextAttemptInSeconds', 0);
end
$$;
