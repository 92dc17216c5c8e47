-- Jobs come back: from workers that died, and from waiting. Steps of a claim, bounded and without errors of
-- their own; the counters they and every settle keep are rolled up here.

-- Adds to the counters of batches and closes those whose jobs have all ended. p_changes is an array of
-- {batchId, jobsDone, jobsFailed, imagesFailed}, several for one batch allowed, negative when a failed
-- job is taken up again. Locks the batches in the order of their ids.
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

-- Whether a job that is held is its run's only one: then a crash is its own, among several it may be any of theirs.
-- The leases of a run do not end at the very same moment, so one whose company was taken back first was not alone.
create or replace function generation.is_alone(p_job public.photo_generation_queue) returns boolean
language sql stable set search_path = ''
as $$
  select not exists (
    select from public.photo_generation_queue as q
    where q.status = 'processing' and q."runId" = p_job."runId" and q.id <> p_job.id)
    and not exists (
      select from generation.runs as d where d.id = p_job."runId" and d."rescuedAt" is not null)
$$;

-- Why a job whose lease has run out is given up, null if it is not: its third crash of its own, or attempts used
-- up though this one is given back. With nothing left to make it is not: the next claim only settles it.
create or replace function generation.crash_code(p_job public.photo_generation_queue) returns text
language sql stable set search_path = ''
as $$
  select case
    when generation.missing_images(p_job."batchId", p_job.id, p_job."numImagesPerExample") = '{}' then null
    when p_job.crashes >= 2 and generation.is_alone(p_job) then 'crashed'
    when p_job.attempts - 1 >= p_job."maxAttempts" then 'attempts_exhausted'
  end
$$;

-- Takes back up to p_limit jobs whose lease has run out: the worker is dead, since a run ends before its
-- leases do. The attempt is given back, and from now on the job is handed out alone, until it has been tried and
-- settled: so a photo that kills its worker takes its neighbours down once, and the crashes that follow are its
-- own, of which the third is the last. Skips rows that are locked right now.
create or replace function generation.rescue_expired_leases(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_ids bigint[];
  v_changes jsonb;
  v_runs uuid[];
begin
  select array_agg(e.id order by e.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    where q.status = 'processing' and q."leaseExpiresAt" <= generation.clock()
    order by q."leaseExpiresAt" limit p_limit
    for update skip locked
  ) as e;
  if v_ids is null then
    return;
  end if;
  with judged as (
    select q.id, generation.crash_code(q) as code, generation.is_alone(q) as alone, q."runId" as run
    from public.photo_generation_queue as q where q.id = any (v_ids)
  ), rescued as (
    update public.photo_generation_queue as q
    set status = case when j.code is null then 'pending' else 'failed' end,
      attempts = greatest(q.attempts - 1, 0), crashes = q.crashes + j.alone::integer, suspect = true,
      "lockedBy" = null, "runId" = null, "claimId" = null, "lockedAt" = null, "leaseExpiresAt" = null,
      "retryAt" = null, "waitingSince" = null,
      "completedAt" = case when j.code is not null then generation.clock() end,
      "errorCode" = coalesce(j.code, 'lease_expired'),
      "errorMessage" = case j.code
        when 'crashed' then 'The worker died three times while making these photos alone; one of the source photos may be to blame.'
        when 'attempts_exhausted' then format('Gave up after %s attempts; the worker died during the last.', q.attempts)
        else 'The worker died while making these photos; they will be tried again.'
      end
    from judged as j
    where q.id = j.id
    returning q.id, q."batchId", q.status, q."numImagesPerExample", j.run
  )
  select jsonb_agg(jsonb_build_object('batchId', r."batchId", 'jobsDone', 0, 'jobsFailed', 1,
      'imagesFailed', cardinality(generation.missing_images(r."batchId", r.id, r."numImagesPerExample"))))
    filter (where r.status = 'failed'),
    array_agg(distinct r.run)
  into v_changes, v_runs
  from rescued as r;
  if v_changes is not null then
    perform generation.roll_up(v_changes);
  end if;
  -- One that is locked right now is being marked by another claim.
  select array_agg(d.id) into v_runs from (
    select r.id from generation.runs as r
    where r.id = any (v_runs) and r."rescuedAt" is null
    order by r.id for no key update skip locked
  ) as d;
  update generation.runs as r set "rescuedAt" = generation.clock() where r.id = any (v_runs);
end
$$;

-- How many requests may be sent a day for one user who orders, null for any number: three quarters of what the daily caps let start.
-- One user may order half of that; the rest are requests that were sent in vain or for orders of the day before, and what a user
-- orders can bring that about again and again: answers without an image, timeouts, errors. The others are left the last quarter.
create or replace function generation.user_requests_per_day() returns numeric
language sql stable set search_path = ''
as $$ select generation.images_of_caps() * 3 / 4 $$;

-- Puts ready jobs off until the next day in California if as many requests were sent today for their user as user_requests_per_day
-- allows. Users for whom a server orders with the service key are not limited, as in their
-- orders. Skips rows that are locked right now.
create or replace function generation.put_off_users() returns void
language plpgsql set search_path = ''
as $$
declare
  v_now constant timestamptz := generation.clock();
  -- An integer, as the column is, or its index would not be used.
  v_most constant integer := ceil(least(generation.user_requests_per_day(), 2147483647));
  v_users text[];
begin
  -- Signed-in users have one priority, and so one row.
  v_users := array(
    select f."userId" from generation.flows as f
    where f."requestsOn" = generation.quota_day(v_now) and f."requestsSent" >= v_most and f."signedIn" and f.priority = 0);
  if v_users = '{}' then
    return;
  end if;
  with ready as materialized (
    select q.id from public.photo_generation_queue as q
    where q."userId" = any (v_users) and q.status = 'pending' and q."retryAt" is null
    for update skip locked
  )
  update public.photo_generation_queue as q
  set status = 'rate_limited', "retryAt" = generation.next_daily_reset(v_now), "waitingSince" = v_now,
    "errorCode" = 'user_daily_limit',
    "errorMessage" = 'One user''s limit for today is reached; these photos are made after midnight in California.'
  from ready as r where q.id = r.id;
end
$$;

-- The users of whom nothing more is handed out for now, an array of ids: with two requests for each image of their jobs that are being
-- worked on they would reach what put_off_users allows. They get more once those jobs have ended, or wait for the next day. A job that
-- was cancelled in progress counts until its worker has told of it, or its lease ends. Where there is a cap, claims
-- come through here one at a time until they are committed, so that each counts what the others have handed out.
create or replace function generation.users_near_daily_limit() returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_most constant numeric := generation.user_requests_per_day();
  v_today constant date := generation.quota_day(generation.clock());
  v_images jsonb;
begin
  if v_most is null then
    return '[]';
  end if;
  perform pg_advisory_xact_lock(generation.lock_class('requests'), 0);
  select jsonb_object_agg(u."userId", u.images) into v_images from (
    select w."userId", sum(w.images) as images from (
      select q."userId", q."numImagesPerExample" as images from public.photo_generation_queue as q
      where q.status = 'processing' and q."leaseExpiresAt" > '-infinity'
      union all
      select q."userId", q."numImagesPerExample" from public.photo_generation_queue as q
      where q.status = 'cancelled' and q."leaseExpiresAt" > generation.clock()
        and q."leaseExpiresAt" <= generation.clock() + generation.most_ahead('public.photo_generation_queue', 'leaseExpiresAt')
    ) as w
    group by w."userId"
  ) as u;
  return (
    select coalesce(jsonb_agg(f."userId"), '[]') from generation.flows as f
    where f."userId" = any (array(select jsonb_object_keys(v_images))) and f.priority = 0
      and case when f."signedIn"
        then case when f."requestsOn" = v_today then f."requestsSent" else 0 end + 2 * (v_images ->> f."userId")::numeric >= v_most end);
end
$$;

-- Makes up to p_limit waiting jobs ready that have come due, each with its next turn. While a user's tag row is locked, by an
-- order of that user's, the user's jobs wait for the next claim.
create or replace function generation.promote_due_jobs(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_due bigint[];
begin
  select array_agg(d.id) into v_due from (
    select q.id from public.photo_generation_queue as q
    where q."retryAt" <= generation.clock() and q.status in ('pending', 'rate_limited')
    order by q."retryAt" limit p_limit
    for update skip locked
  ) as d;
  if v_due is null then
    return;
  end if;
  v_due := array(
    with due as materialized (
      select q.id, q."userId", q.priority from public.photo_generation_queue as q where q.id = any (v_due)
    ), locked as (
      select d.id from due as d join generation.flows as f on f."userId" = d."userId" and f.priority = d.priority
      for no key update of f skip locked
    )
    select l.id from locked as l
    union all
    select d.id from due as d
    where not exists (select from generation.flows as f where f."userId" = d."userId" and f.priority = d.priority));
  update public.photo_generation_queue as q
  set status = 'pending', "retryAt" = null, "waitingSince" = null, "startTag" = t.tag
  from generation.take_turns(v_due) as t
  where q.id = any (v_due) and q.id = t.id;
end
$$;
