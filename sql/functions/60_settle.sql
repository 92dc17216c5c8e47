-- Jobs end, or wait for another attempt. Each result names the claim that it belongs to (the fence); if that claim no longer holds the job,
-- the job is not changed. Refusals: PT400 (a malformed result).

-- Turns the results of a settle into rows; settle_generation_jobs describes them. PT400 for an unknown outcome.
create or replace function generation.read_results(p_results jsonb)
returns table (
  job_id bigint, fence text, outcome text, code text, message text, retry_seconds double precision,
  until_daily_reset boolean, attempt_spent boolean
)
language plpgsql immutable rows 10 set search_path = ''
as $$
declare
  v_bad text;
begin
  select r ->> 'outcome' into v_bad from jsonb_array_elements(p_results) as r
  where coalesce(r ->> 'outcome', 'none') not in ('completed', 'failed', 'retry', 'rate_limited', 'released')
    or (r ->> 'outcome' = 'failed' and r ->> 'message' is null)
  limit 1;
  if found then
    perform generation.refuse('400', 'bad_result', format('a result has outcome %s, or failed without a message', coalesce(v_bad, 'none')),
      'Use completed, failed (with a message), retry, rate_limited or released.');
  end if;
  return query
  select (r ->> 'jobId')::bigint, r ->> 'fence', r ->> 'outcome', r ->> 'code', r ->> 'message',
    least(greatest(coalesce((r ->> 'retryInSeconds')::double precision, 0), 0), 172800),
    coalesce((r ->> 'untilDailyReset')::boolean, false),
    coalesce((r ->> 'attemptSpent')::boolean, true)
  from jsonb_array_elements(p_results) as r;
end
$$;

-- Decides the new status of each locked job, its code and message. Writes nothing.
--   every image made or given up       → completed, with a note if some were given up; failed if all were
--   rate_limited, or any other result but `released` that spends no attempt, at the maximum age → failed
--   retry, released with attempts used up → failed; `completed` with images missing is a retry
create or replace function generation.judge_results(p_results jsonb, p_ids bigint[])
returns table (
  id bigint, fence text, run_id uuid, batch_id text, status text, code text, message text, retry_at timestamptz, give_back integer,
  missing integer
)
language plpgsql stable rows 10 set search_path = ''
as $$
declare
  v_now constant timestamptz := generation.clock();
  v_max_age constant integer := (select ceil(l."maxAgeHours")::integer from generation.limits as l);
begin
  return query
  with locked as materialized (
    select q.* from public.photo_generation_queue as q where q.id = any (p_ids)
  ), counted as (
    select q.id, q."batchId", q."runId", q."createdAt", q.attempts, q."maxAttempts", q."numImagesPerExample" as images, r.*,
      made.images as made, refused.images as refused, refused.code as refused_code, refused.message as refused_message
    from generation.read_results(p_results) as r
    join locked as q on q.id = r.job_id and q.status = 'processing' and q."lockedBy" = r.fence
    cross join lateral (
      select count(*)::integer as images from public.photo_generation_photos as p
      where p."batchId" = q."batchId" and p."jobId" = q.id
    ) as made
    cross join lateral (
      select count(*)::integer as images, (array_agg(f.code order by f."imageIndex"))[1] as code,
        (array_agg(f.message order by f."imageIndex"))[1] as message
      from generation.failed_images as f where f."batchId" = q."batchId" and f."jobId" = q.id
    ) as refused
  ), decided as materialized (
    select c.*, c.images - c.made - c.refused as missing, case
      when c.images = c.made + c.refused then case when c.made = 0 then 'refused' else 'completed' end
      when c.outcome = 'failed' then 'failed'
      when (c.outcome = 'rate_limited' or (c.outcome <> 'released' and not c.attempt_spent))
        and c."createdAt" < v_now - make_interval(hours => v_max_age) then 'too_old'
      when c.outcome = 'rate_limited' then 'rate_limited'
      when c.attempt_spent and c.attempts >= c."maxAttempts" then 'exhausted'
      else 'pending'
    end as verdict
    from counted as c
  )
  select d.id, d.fence, d."runId", d."batchId",
    case when d.verdict in ('refused', 'exhausted', 'too_old') then 'failed' else d.verdict end,
    case d.verdict
      when 'completed' then case when d.refused > 0 then 'some_images_refused' end
      when 'refused' then d.refused_code
      when 'too_old' then 'too_old'
      else coalesce(d.code, case when d.outcome = 'completed' then 'incomplete' end)
    end,
    case d.verdict
      when 'completed' then case when d.refused > 0 then
        format('%s of %s photos could not be made: %s', d.refused, d.images, d.refused_message) end
      when 'refused' then d.refused_message
      when 'too_old' then format('Gave up after %s hours. The last reason: %s', v_max_age, coalesce(d.message, 'it did not finish'))
      when 'exhausted' then format('Gave up after %s attempts. The last one: %s', d.attempts, coalesce(d.message, 'it did not finish'))
      else d.message
    end,
    case
      when d.verdict = 'rate_limited' and d.until_daily_reset
        then generation.next_daily_reset(v_now) + make_interval(secs => least(d.retry_seconds, 86400))
      when d.verdict = 'rate_limited' or (d.verdict = 'pending' and d.outcome <> 'released')
        then v_now + make_interval(secs => d.retry_seconds)
    end,
    case when d.attempt_spent then 0 else 1 end,
    d.missing
  from decided as d;
end
$$;

-- Writes what judge_results decides, and updates the batches. Returns [{jobId, fence, runId, status, code}] of the jobs still held.
create or replace function generation.apply_results(p_results jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now constant timestamptz := generation.clock();
  v_ids constant bigint[] := array(select (r ->> 'jobId')::bigint from jsonb_array_elements(p_results) as r);
  v_settled jsonb;
  v_changes jsonb;
  v_sent bigint[];
  v_cancelled bigint[];
begin
  -- Requests for a job that was cancelled in progress count too, once; otherwise users could avoid their limit by cancelling.
  select array_agg(l.id) filter (where l.status = 'cancelled' and l."leaseExpiresAt" is not null) into v_cancelled
  from (
    select q.id, q.status, q."leaseExpiresAt" from public.photo_generation_queue as q
    where q.id = any (v_ids) order by q.id for no key update
  ) as l;

  with judged as materialized (
    select * from generation.judge_results(p_results, v_ids)
  ), settled as (
    update public.photo_generation_queue as q
    set status = j.status, "errorCode" = j.code, "errorMessage" = j.message, "retryAt" = j.retry_at,
      "waitingSince" = case when j.retry_at is not null then v_now end,
      attempts = greatest(q.attempts - j.give_back, 0), suspect = q.suspect and j.give_back = 1,
      "lockedBy" = null, "runId" = null, "claimId" = null, "lockedAt" = null, "leaseExpiresAt" = null,
      "completedAt" = case when j.status in ('completed', 'failed') then v_now end
    from judged as j
    where q.id = j.id and q.id = any (v_ids)
    returning q.id, j.fence, j.run_id, j.status, j.code, j.batch_id, j.missing
  )
  select jsonb_agg(jsonb_build_object('jobId', s.id, 'fence', s.fence, 'runId', s.run_id, 'status', s.status, 'code', s.code)),
    jsonb_agg(jsonb_build_object('batchId', s.batch_id,
      'jobsDone', (s.status = 'completed')::integer, 'jobsFailed', (s.status = 'failed')::integer,
      'imagesFailed', case when s.status = 'failed' then s.missing else 0 end))
    filter (where s.status in ('completed', 'failed'))
  into v_settled, v_changes
  from settled as s;
  select array_agg((r ->> 'jobId')::bigint) into v_sent from jsonb_array_elements(p_results) as r
  where (r ->> 'requests')::integer > 0
    and (v_settled @> jsonb_build_array(jsonb_build_object('jobId', r -> 'jobId', 'fence', r -> 'fence'))
      or (r ->> 'jobId')::bigint = any (v_cancelled));
  if v_cancelled is not null then
    update public.photo_generation_queue as q set "leaseExpiresAt" = null where q.id = any (v_cancelled);
  end if;
  if v_sent is not null then
    perform generation.count_requests(p_results, v_sent);
  end if;
  if v_changes is not null then
    perform generation.roll_up(v_changes);
  end if;
  return coalesce(v_settled, '[]');
end
$$;

-- Settles several jobs of a run. p_results is an array of {jobId, fence, outcome, code, message,
-- retryInSeconds, untilDailyReset, attemptSpent, requests}; outcome is `completed`, `failed`, `retry`, `rate_limited` or
-- `released` (ready again at once, with its old tag); attemptSpent (default true) is false if no request counted; requests
-- (default 0) is how many were sent to Gemini for the job. Returns {results: [{jobId, result, status, code}]} with the job's
-- new status and error code. `result` is `settled`, or `lease_lost` if another claim holds the job or it is final; then the
-- worker leaves the job alone. Errors: PT400. Locks: jobs by id, then their users' tag rows if requests were sent, then
-- batches by id. Safe to repeat: the second time the lease is lost and nothing changes.
create or replace function public.settle_generation_jobs(p_results jsonb) returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_settled jsonb;
begin
  perform generation.require_service();
  perform generation.renew_plans();
  if jsonb_typeof(p_results) is distinct from 'array' then
    perform generation.refuse('400', 'wrong_type', 'p_results must be an array', 'Send [{"jobId": …, "fence": …, "outcome": …}].');
  end if;
  v_settled := generation.apply_results(p_results);
  perform generation.record_heartbeat(r.id) from (
    select distinct (s ->> 'runId')::uuid as id from jsonb_array_elements(v_settled) as s
  ) as r;
  return jsonb_build_object('results', (
    select coalesce(jsonb_agg(jsonb_build_object('jobId', (r ->> 'jobId')::bigint,
      'result', case when s is null then 'lease_lost' else 'settled' end, 'status', s ->> 'status', 'code', s ->> 'code') order by i), '[]')
    from jsonb_array_elements(p_results) with ordinality as a (r, i)
    left join jsonb_array_elements(v_settled) as s
      on s ->> 'jobId' = r ->> 'jobId' and s ->> 'fence' = r ->> 'fence'
  ));
end
$$;
