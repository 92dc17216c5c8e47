-- The states of jobs that several functions ask for, the images that a job lacks, and the counters of batches.

-- Each of these states is defined once, here. The index that finds such jobs (photo_generation_queue_ready, …) has the same predicate; a
-- test compares them.

-- Jobs that a claim may hand out now.
create or replace view generation.ready_jobs with (security_invoker = true) as
select * from public.photo_generation_queue where status = 'pending' and "retryAt" is null;

-- Jobs that become ready at "retryAt".
create or replace view generation.waiting_jobs with (security_invoker = true) as
select * from public.photo_generation_queue where "retryAt" is not null and status in ('pending', 'rate_limited');

-- Jobs that a claim holds.
create or replace view generation.held_jobs with (security_invoker = true) as
select * from public.photo_generation_queue where status = 'processing';

-- Ended jobs whose folder in Storage may hold objects without a row; the comment at the index photo_generation_queue_unswept says
-- which these are and why.
create or replace view generation.unswept_jobs with (security_invoker = true) as
select * from public.photo_generation_queue
where "sweptAt" is null and status in ('completed', 'failed', 'cancelled') and (claims > 1 or (claims > 0 and status <> 'completed'));

-- Which images of a job are neither made nor given up.
create or replace function generation.missing_images(p_batch_id text, p_job_id bigint, p_images integer) returns integer[]
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select coalesce(array_agg(i order by i), '{}')
    from generate_series(0, p_images - 1) as i
    where not exists (
        select from public.photo_generation_photos as p
        where p."batchId" = p_batch_id and p."jobId" = p_job_id and p."imageIndex" = i)
      and not exists (
        select from generation.failed_images as f
        where f."batchId" = p_batch_id and f."jobId" = p_job_id and f."imageIndex" = i));
end
$$;

-- Adds to the counters of batches, and closes the batches whose jobs have all ended. p_changes is an array of
-- {batchId, jobsDone, jobsFailed, imagesFailed}; a batch may occur several times, and the numbers are negative when a failed job is
-- retried. Locks the batches in the order of their ids.
create or replace function generation.roll_up(p_changes jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
  v_ids constant text[] := array(select distinct c ->> 'batchId' from jsonb_array_elements(p_changes) as c);
begin
  perform 1 from public.photo_generation_batches as b where b.id = any (v_ids) order by b.id for no key update;

  with changes as (
    select c ->> 'batchId' as batch_id, sum((c ->> 'jobsDone')::integer) as jobs_done,
      sum((c ->> 'jobsFailed')::integer) as jobs_failed, sum((c ->> 'imagesFailed')::integer) as images_failed
    from jsonb_array_elements(p_changes) as c
    group by 1
  ), counted as (
    select b.id, b."jobsDone" + c.jobs_done as jobs_done, b."jobsFailed" + c.jobs_failed as jobs_failed,
      b."imagesFailed" + c.images_failed as images_failed,
      b."jobsDone" + c.jobs_done + b."jobsFailed" + c.jobs_failed >= b."jobsTotal" as ended
    from public.photo_generation_batches as b join changes as c on c.batch_id = b.id
    where b.id = any (v_ids)
  )
  update public.photo_generation_batches as b
  set "jobsDone" = n.jobs_done, "jobsFailed" = n.jobs_failed, "imagesFailed" = n.images_failed,
    status = case
      when b.status = 'cancelled' then b.status
      when not n.ended then 'generating'
      when b."imagesDone" >= b."imagesTotal" then 'completed'
      when b."imagesDone" > 0 then 'partial'
      else 'failed'
    end,
    "completedAt" = case
      when b.status = 'cancelled' then b."completedAt"
      when n.ended then coalesce(b."completedAt", generation.clock())
    end
  from counted as n
  where b.id = n.id and b.id = any (v_ids);
end
$$;
