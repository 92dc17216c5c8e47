-- Jobs become ready again: those whose worker died, and those whose time to be retried has come. A claim calls both functions first. They
-- handle a bounded number of jobs and skip rows that are locked.

-- Whether a job is the only one that its run holds. Then a crash is the job's own; among several jobs it may be any of theirs. The leases
-- of a run do not end at the same moment, so a job is not alone either if another of the run was taken back before.
create or replace function generation.is_alone(p_job public.photo_generation_queue) returns boolean
language sql stable set search_path = ''
as $$
  select not exists (
    select from generation.held_jobs as q where q."runId" = p_job."runId" and q.id <> p_job.id)
    and not exists (
      select from generation.runs as d where d.id = p_job."runId" and d."rescuedAt" is not null)
$$;

-- Why a job whose lease has ended is given up: its third crash of its own, or no attempts left even with this one given back. Null if it
-- is not given up, for example because all its images are made: the next claim only settles it.
create or replace function generation.crash_code(p_job public.photo_generation_queue) returns text
language sql stable set search_path = ''
as $$
  select case
    when generation.missing_images(p_job."batchId", p_job.id, p_job."numImagesPerExample") = '{}' then null
    when p_job.crashes >= 2 and generation.is_alone(p_job) then 'crashed'
    when p_job.attempts - 1 >= p_job."maxAttempts" then 'attempts_exhausted'
  end
$$;

-- Takes back up to p_limit jobs whose lease has ended. Their worker is dead, since a run ends before its leases do. The attempt is given
-- back, and the job is handed out alone until it has been tried and settled. So a photo that kills its worker affects other jobs once;
-- later crashes are its own, and the third ends the job. Skips rows that are locked.
create or replace function generation.rescue_expired_leases(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_ids bigint[];
  v_changes jsonb;
  v_runs uuid[];
begin
  select array_agg(e.id order by e.id) into v_ids from (
    select q.id from generation.held_jobs as q where q."leaseExpiresAt" <= generation.clock()
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

-- Makes up to p_limit waiting jobs ready whose time has come, each with its next turn. While an order of a user locks the user's tag row,
-- that user's jobs wait for the next claim, and those of other users come instead.
create or replace function generation.promote_due_jobs(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_due bigint[];
begin
  select array_agg(d.id) into v_due from (
    select q.id from generation.waiting_jobs as q
    cross join lateral (
      select from (
        select from generation.flows as f where f."userId" = q."userId" and f.priority = q.priority for no key update skip locked
      ) as unlocked
      union all
      select where not exists (select from generation.flows as f where f."userId" = q."userId" and f.priority = q.priority)
    ) as tags
    where q."retryAt" <= generation.clock()
    order by q."retryAt" limit p_limit
    for update of q skip locked
  ) as d;
  if v_due is null then
    return;
  end if;
  update public.photo_generation_queue as q
  set status = 'pending', "retryAt" = null, "waitingSince" = null, "startTag" = t.tag
  from generation.take_turns(v_due) as t
  where q.id = any (v_due) and q.id = t.id;
end
$$;
