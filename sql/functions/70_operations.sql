-- What apps and operators do to jobs: cancel, release, retry. Refusals: PT404 (`no_such_batch`, also for somebody else's batch). Only
-- cancel_generation_batch is open to signed-in users, for their own batches.

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

-- Cancels every job of a batch that has not ended. Photos already made stay; what is being generated right
-- now is discarded when its worker comes to record it. Returns {batchId, status, jobsCancelled}; a batch that
-- has ended stays as it is. Errors: PT404. Locks: jobs by id, then the batch.
-- Safe to repeat: what is cancelled is final, so the second time cancels no job.
create or replace function public.cancel_generation_batch(p_batch_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_cancelled integer;
  v_status text;
begin
  perform generation.require_user();
  perform generation.check_batch_access(p_batch_id);
  perform 1 from public.photo_generation_queue as q
  where q."batchId" = p_batch_id order by q.id for no key update;
  update public.photo_generation_queue as q
  set status = 'cancelled', "completedAt" = generation.clock(), "retryAt" = null, "waitingSince" = null,
    "lockedBy" = null, "runId" = null, "claimId" = null, "lockedAt" = null  -- leaseExpiresAt stays: see users_near_daily_limit
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
-- are fenced off; the attempt stays spent. Returns {released}. Locks: jobs by id.
-- Safe to repeat: a released job has no lock, and a worker that claims it later has a newer lock.
create or replace function public.release_stale_generation_jobs(p_older_than_seconds numeric default 300)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_released integer;
begin
  perform generation.require_service();
  with stale as (
    select q.id from generation.held_jobs as q
    where q."lockedAt" < generation.clock() - make_interval(secs => p_older_than_seconds::double precision)
    order by q.id for no key update
  )
  update public.photo_generation_queue as q
  set status = 'pending', "lockedBy" = null, "runId" = null, "claimId" = null, "lockedAt" = null, "leaseExpiresAt" = null
  from stale where q.id = stale.id;
  get diagnostics v_released = row_count;
  return jsonb_build_object('released', v_released);
end
$$;

-- Retries up to p_limit failed jobs, of one batch or of all, with all their attempts; only the images still missing are
-- made. A job whose folder is being swept waits until that is over: its next claim must not adopt an object that the
-- sweep removes. Jobs whose missing images were all refused are not retried unless p_including_refused. Cancelled
-- batches stay cancelled. Each job gets another turn (see next_turns), after the sweep if it waits for one.
-- Returns {retried}.
-- Errors: PT404. Locks: jobs by id, then their users' tag rows, then batches by id. Safe to repeat: a retried job is no longer failed.
create or replace function public.retry_failed_generation_jobs(
  p_batch_id text default null, p_including_refused boolean default false, p_limit integer default 1000
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_ids bigint[];
  v_turns bigint[];
  v_changes jsonb;
begin
  perform generation.require_service();
  if p_batch_id is not null then
    perform generation.check_batch_access(p_batch_id);
  end if;
  select array_agg(f.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    join public.photo_generation_batches as b on b.id = q."batchId" and b.status <> 'cancelled'
    where q.status = 'failed' and (p_batch_id is null or q."batchId" = p_batch_id)
      and (p_including_refused or generation.missing_images(q."batchId", q.id, q."numImagesPerExample") <> '{}')
    order by q.id limit p_limit
    for no key update of q
  ) as f;
  -- A batch may have been cancelled while this waited for its jobs. Now that they are locked, none can be.
  select array_agg(q.id) into v_ids from public.photo_generation_queue as q
  join public.photo_generation_batches as b on b.id = q."batchId" and b.status <> 'cancelled'
  where q.id = any (v_ids);
  select jsonb_agg(jsonb_build_object('batchId', q."batchId", 'jobsDone', 0, 'jobsFailed', -1, 'imagesFailed',
    -cardinality(generation.missing_images(q."batchId", q.id, q."numImagesPerExample")) - case when p_including_refused then (
      select count(*)::integer from generation.failed_images as f
      where f."batchId" = q."batchId" and f."jobId" = q.id) else 0 end)) into v_changes
  from public.photo_generation_queue as q where q.id = any (v_ids);
  if v_changes is null then
    return '{"retried": 0}';
  end if;
  if p_including_refused then
    delete from generation.failed_images as f using public.photo_generation_queue as q
    where q.id = any (v_ids) and f."batchId" = q."batchId" and f."jobId" = q.id;
  end if;
  perform 1 from generation.flows as f
  where f."userId" in (select q."userId" from public.photo_generation_queue as q where q.id = any (v_ids))
  order by f."userId", f.priority for no key update;
  v_turns := array(
    select q.id from public.photo_generation_queue as q
    where q.id = any (v_ids) and (q."sweepUntil" > generation.clock()) is not true);
  update public.photo_generation_queue as q
  set status = 'pending', attempts = 0, crashes = 0, suspect = false, "completedAt" = null, "sweptAt" = null, "sweepUntil" = null,
    "retryAt" = case when q."sweepUntil" > generation.clock() then least(q."sweepUntil",
      generation.clock() + generation.most_ahead('public.photo_generation_queue', 'sweepUntil')) end,
    "waitingSince" = case when q."sweepUntil" > generation.clock() then generation.clock() end,
    "errorCode" = null, "errorMessage" = null, "startTag" = coalesce(t.tag, q."startTag")
  from unnest(v_ids) as d (id) left join generation.take_turns(v_turns) as t on t.id = d.id
  where q.id = any (v_ids) and q.id = d.id;
  perform generation.roll_up(v_changes);
  return jsonb_build_object('retried', cardinality(v_ids));
end
$$;
