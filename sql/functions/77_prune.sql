-- Pruning removes what ended long ago: batches with their jobs, runs, idempotency keys. Rows of photos stay. Refusals: PT400 (a parameter).

-- The batches to prune: ended before p_before (one that goes on has no "completedAt"), those that ended first, until
-- they have p_limit jobs; one at least. Not while a job's folder waits to be swept: once the job is gone, nobody
-- knows of the folder.
create or replace function generation.batches_to_prune(p_before timestamptz, p_limit integer) returns text[]
language sql stable set search_path = ''
as $$
  select array_agg(c.id) from (
    select b.id, sum(b."jobsTotal") over (order by b."completedAt", b.id) - b."jobsTotal" as jobs_before
    from (
      select o.id, o."completedAt", o."jobsTotal" from public.photo_generation_batches as o
      where o."completedAt" < p_before and not exists (
        select from generation.unswept_jobs as q where q."batchId" = o.id
      )
      order by o."completedAt", o.id limit p_limit
    ) as b
  ) as c
  where c.jobs_before < p_limit
$$;

-- Removes batches with their jobs and failed images; the photos' rows stay. A batch is removed as a whole or not at all, so
-- that its counters always equal its rows: it is left for the next time if one of its jobs is locked, or has been
-- retried. Returns how many jobs and batches were removed.
create or replace function generation.prune_batches(p_batch_ids text[], p_before timestamptz, out jobs integer, out batches integer)
language plpgsql set search_path = ''
as $$
declare
  v_jobs bigint[];
  v_batches text[];
begin
  select array_agg(l.id) into v_jobs from (
    select q.id from public.photo_generation_queue as q
    where q."batchId" = any (p_batch_ids) order by q.id for update skip locked
  ) as l;
  perform 1 from public.photo_generation_batches as b where b.id = any (p_batch_ids) order by b.id for update;
  -- Checked after the locks: from now on no job can be added to these batches.
  select array_agg(b.id) into v_batches from public.photo_generation_batches as b
  where b.id = any (p_batch_ids) and b."completedAt" < p_before and not exists (
    select from public.photo_generation_queue as q
    where q."batchId" = b.id and q.id <> all (coalesce(v_jobs, '{}')));
  delete from generation.failed_images as f where f."batchId" = any (v_batches);
  delete from public.photo_generation_queue as q where q."batchId" = any (v_batches);
  get diagnostics jobs = row_count;
  delete from public.photo_generation_batches as b where b.id = any (v_batches);
  get diagnostics batches = row_count;
end
$$;

-- Removes runs that ended, or died, before p_before. The last run stays, because the numbers show when it was.
create or replace function generation.prune_runs(p_before timestamptz, p_limit integer) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_gone integer;
begin
  with old as materialized (
    select o.id from generation.runs as o
    where o."endsBy" < p_before and o.id <> (select n.id from generation.runs as n order by n."startedAt" desc limit 1)
    order by o."startedAt" limit p_limit for update skip locked
  )
  delete from generation.runs as r using old where r.id = old.id;
  get diagnostics v_gone = row_count;
  return v_gone;
end
$$;

-- Removes idempotency keys from before p_before whose batch has been removed, so a key is valid for longer than its order exists.
create or replace function generation.prune_keys(p_before timestamptz, p_limit integer) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_gone integer;
begin
  with old as materialized (
    select o."userId", o.key from generation.idempotency_keys as o
    where o."createdAt" < p_before
      and not exists (select from public.photo_generation_batches as b where b.id = o.answer ->> 'batchId')
    order by o."createdAt" limit p_limit for update skip locked
  )
  delete from generation.idempotency_keys as k using old where k."userId" = old."userId" and k.key = old.key;
  get diagnostics v_gone = row_count;
  return v_gone;
end
$$;

-- Removes what ended more than p_older_than_days ago: batches with their jobs and failed images, and runs; keys 60 days
-- later, and not before they are 90 days old. Never a photo's row, and no batch with a job whose folder waits to be swept.
-- At most about p_limit of each kind a call (batches go as a whole). Returns {jobsRemoved, batchesRemoved, runsRemoved,
-- keysRemoved, more, unswept}: `more` if a limit was reached, `unswept` the number, counted up to p_limit, of jobs that
-- would be old enough but wait for a sweep. Also forgets counters that are older than a day or out of date, because where nobody asks
-- for the numbers nothing else does (roll_counts). Errors: PT400. Locks: the row of generation.counting, jobs, then batches by id;
-- skips what others have locked.
-- Safe to repeat: what has gone is not found again.
create or replace function public.prune_generation_history(p_older_than_days integer default 30, p_limit integer default 1000)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_before timestamptz;
  v_batch_ids text[];
  v_gone record;
  v_runs integer;
  v_keys integer;
begin
  perform generation.require_service();
  if p_older_than_days is null or p_older_than_days not between 1 and 36500 or p_limit is null or p_limit not between 1 and 100000 then
    perform generation.refuse('400', 'out_of_range', 'p_older_than_days must be 1 to 36500, p_limit 1 to 100000',
      'Keep 30 days, for example.');
  end if;
  perform generation.roll_counts(0);
  v_before := generation.clock() - make_interval(days => p_older_than_days);
  v_batch_ids := generation.batches_to_prune(v_before, p_limit);
  select * into v_gone from generation.prune_batches(v_batch_ids, v_before);
  v_runs := generation.prune_runs(v_before, p_limit);
  v_keys := generation.prune_keys(generation.clock() - make_interval(days => greatest(p_older_than_days + 60, 90)), p_limit);
  return jsonb_build_object('jobsRemoved', v_gone.jobs, 'batchesRemoved', v_gone.batches, 'runsRemoved', v_runs,
    'keysRemoved', v_keys, 'more', v_gone.jobs >= p_limit or p_limit in (v_gone.batches, v_runs, v_keys),
    'unswept', (
      select count(*) from (
        select from generation.unswept_jobs as q where q."completedAt" < v_before
        order by q."sweepUntil" nulls first, q."completedAt" limit p_limit
      ) as u));
end
$$;
