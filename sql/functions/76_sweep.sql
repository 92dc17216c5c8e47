-- The sweep removes objects from Storage that no row names. Only the Storage API can remove objects, so a worker does it; these
-- functions return the folders to look into, and record which have been swept. Refusals: PT400 (a parameter).
--
-- A sweep removes no object that is still needed. It handles only jobs that ended at least ten minutes ago. A run lasts 270 s at most
-- and an ended job is not claimed, so nothing more is uploaded to the job's folder. An ended job takes no record, so the list of
-- recorded photos stays true while the job is final. A job that is retried during a sweep waits until `sweepUntil`; otherwise its next
-- claim could adopt an object that is being removed.

-- Sets "completedAt" of up to p_limit jobs to now where it is in the future, because the clock was wrong. Locks: jobs; skips those
-- that others have locked.
create or replace function generation.put_ends_right(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_now constant timestamptz := greatest(generation.clock(), generation.moment());
begin
  with ahead as materialized (
    select q.id from generation.unswept_jobs as q
    where q."sweepUntil" is null and q."completedAt" > v_now
    order by q."completedAt" desc limit p_limit for no key update skip locked
  )
  update public.photo_generation_queue as q set "completedAt" = v_now from ahead as a where q.id = a.id;
end
$$;

-- Up to p_limit ended jobs whose folders may hold objects without a row: {jobs: [{id, folder, recorded}], seconds}.
-- Whatever lies in `folder` under a worker's name and is not in `recorded` may be removed within `seconds`, not
-- later; then settle_swept_generation_jobs. A job that is not settled comes again, after all others.
-- Errors: PT400. Locks: jobs; those locked by others are skipped. Safe to repeat: others are given the second time.
create or replace function public.generation_jobs_to_sweep(p_limit integer default 20) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_jobs jsonb;
begin
  perform generation.require_service();
  if p_limit is null or p_limit not between 1 and 1000 then
    perform generation.refuse('400', 'out_of_range', 'p_limit must be from 1 to 1000', 'Sweep fewer jobs at once.');
  end if;
  perform generation.put_ends_right(p_limit);
  with found as materialized (
    select q.id from generation.unswept_jobs as q
    where q."completedAt" <= generation.clock() - interval '10 minutes'
      and (q."sweepUntil" is null or q."sweepUntil" <= generation.clock()
        or q."sweepUntil" > generation.clock() + generation.most_ahead('public.photo_generation_queue', 'sweepUntil'))
    order by q."sweepUntil" nulls first, q."completedAt" limit p_limit
    for update skip locked
  ), taken as (
    update public.photo_generation_queue as q
    set "sweepUntil" = generation.clock() + interval '3 minutes',
      -- An old row's ids may name no folder: then there is none of its own to look into.
      "sweptAt" = case when not (generation.is_folder(generation.user_folder(q."userId")) and generation.is_folder(q."batchId"))
        then generation.clock() end
    from found as f where q.id = f.id
    returning q.id, q."userId", q."batchId", q."sweptAt"
  )
  select jsonb_agg(jsonb_build_object('id', t.id,
    'folder', format('%s/%s/%s', generation.user_folder(t."userId"), t."batchId", t.id),
    'recorded', (
      select coalesce(jsonb_agg(p."storagePath"), '[]') from public.photo_generation_photos as p
      where p."batchId" = t."batchId" and p."jobId" = t.id
    )) order by t.id) into v_jobs
  from taken as t where t."sweptAt" is null;
  return jsonb_build_object('jobs', coalesce(v_jobs, '[]'), 'seconds', 180);
end
$$;

-- Records that the folders of jobs were swept. p_job_ids is an array of ids; a job that has been retried since, or
-- whose time for sweeping is over, is not changed. Returns {swept}. Errors: PT400. Locks: jobs by id. Safe to repeat: what is
-- swept stays so.
create or replace function public.settle_swept_generation_jobs(p_job_ids jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_swept integer;
begin
  perform generation.require_service();
  if jsonb_typeof(p_job_ids) is distinct from 'array' then
    perform generation.refuse('400', 'wrong_type', 'p_job_ids must be an array', 'Send [1, 2, 3].');
  end if;
  with held as materialized (
    select q.id from public.photo_generation_queue as q
    where q.id in (select i::bigint from jsonb_array_elements_text(p_job_ids) as i)
      and q.status in ('completed', 'failed', 'cancelled') and q."sweepUntil" > generation.clock()
    order by q.id for no key update
  )
  update public.photo_generation_queue as q set "sweptAt" = generation.clock(), "sweepUntil" = null
  from held as h where q.id = h.id;
  get diagnostics v_swept = row_count;
  return jsonb_build_object('swept', v_swept);
end
$$;
