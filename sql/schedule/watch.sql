-- Is it ticking? One table: the verdict, then schedules, the latest runs of pg_cron and the latest calls with what
-- their answers mean. In the SQL editor or psql; changes nothing. pg_net keeps answers for six hours and loses them in a crash.

-- What became of a call. The answers of one batch become visible together, when the last of them has come.
create or replace function pg_temp.meaning(p_status integer, p_timed_out boolean, p_error text, p_age interval) returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_status between 200 and 299 then 'ok'
    when p_status between 300 and 399 then 'pg_net follows no redirect: put the final https:// address into generation_worker_url'
    when p_status = 401 then 'the secret is wrong: generation_worker_secret in Vault must equal the worker''s WORKER_SECRET'
    when p_status = 403 then 'refused before the worker was asked: Cloud Run must allow unauthenticated calls, the secret guards'
    when p_status in (404, 405) then 'generation_worker_url is not the address of process_generation_queue'
    when p_status = 429 then 'Cloud Run has no instance free: the next tick finds one'
    when p_status = 503 then 'the worker is not up, or cannot reach Supabase: its log says which'
    when p_status = 504 then 'the platform ended the run: its timeout is below INVOCATION_TIMEOUT_SECONDS'
    when p_status >= 500 then 'the worker failed or is misconfigured: the answer and its log say why'
    when p_status is not null then 'refused: the answer says why'
    when p_timed_out then 'no answer within 250 s: the worker may have gone on; generation.runs has its end'
    when p_error is not null then 'the worker was not reached: is generation_worker_url right?'
    when p_age < interval '260 seconds' then 'under way'
    else 'no answer is kept: pg_net''s worker is not running (select net.worker_restart();), it crashed, or it is six hours ago'
  end
$$;

-- The latest p_limit calls. Ids begin again after a crash, so an answer must also be younger than its call.
create or replace function pg_temp.watch_calls(p_limit integer)
returns table (called_at timestamptz, cause text, status integer, answer text, meaning text)
language plpgsql set search_path = ''
as $$
begin
  if to_regclass('generation.worker_calls') is null or to_regclass('net._http_response') is null then
    return;
  end if;
  return query
  select c."calledAt", c.cause || ' ' || c.path, a.status_code,
    left(coalesce(a.error_msg, a.content), 300), pg_temp.meaning(a.status_code, a.timed_out, a.error_msg, now() - c."calledAt")
  from (select w.* from generation.worker_calls as w order by w."calledAt" desc limit p_limit) as c
  left join lateral (
    select r.status_code, r.content, r.timed_out, r.error_msg from net._http_response as r
    where r.id = c."requestId" and r.created > c."calledAt" - interval '1 minute' order by r.created limit 1
  ) as a on true
  order by c."calledAt" desc;
end
$$;

-- Our schedules, each with its latest run; and the latest p_limit runs.
create or replace function pg_temp.watch_schedules() returns table (job text, schedule text, active boolean, command text)
language plpgsql set search_path = ''
as $$
begin
  if to_regclass('cron.job') is not null then
    return query select j.jobname::text, j.schedule, j.active, j.command from cron.job as j
    where j.jobname like 'generation-worker%' order by j.jobname;
  end if;
end
$$;

create or replace function pg_temp.watch_runs(p_job text, p_limit integer)
returns table (started_at timestamptz, job text, status text, message text)
language plpgsql set search_path = ''
as $$
begin
  if to_regclass('cron.job_run_details') is not null then
    return query select d.start_time, j.jobname::text, d.status, d.return_message
    from cron.job_run_details as d join cron.job as j on j.jobid = d.jobid
    where j.jobname like p_job order by d.runid desc limit p_limit;
  end if;
end
$$;

-- Whether it ticks, and if not, what stands in the way first.
create or replace function pg_temp.watch_verdict() returns text
language plpgsql set search_path = ''
as $$
declare
  v_schedule record;
  v_run record;
  v_call record;
begin
  select * into v_schedule from pg_temp.watch_schedules() as s where s.job = 'generation-worker';
  if not found then
    return 'not ticking: nothing is scheduled here; run sql/schedule/schedule.sql (or another clock calls the worker)';
  elsif not v_schedule.active then
    return 'not ticking: the schedule is switched off; run sql/schedule/schedule.sql after cron.alter_job(jobid, active => true)';
  end if;
  select * into v_run from pg_temp.watch_runs('generation-worker', 1);
  if not found then
    return 'not yet: pg_cron has not run it; look again in a minute';
  elsif v_run.started_at < now() - interval '3 minutes' then
    return format('not ticking: pg_cron has run nothing since %s; a restart of the database starts its process again', v_run.started_at);
  elsif v_run.status = 'failed' then
    return 'not ticking: ' || v_run.message;
  end if;
  select * into v_call from pg_temp.watch_calls(20) as c where c.meaning <> 'under way' limit 1;
  if not found then
    return 'not yet: the first answer is still to come';
  elsif v_call.meaning <> 'ok' then
    return 'ticking, but in vain: ' || v_call.meaning;
  end if;
  return 'ticking';
end
$$;

select w.part, w.at, w.what, w.result, w.meaning
from (
  select 1 as place, 'verdict' as part, now() as at, 'is it ticking?' as what, pg_temp.watch_verdict() as result, null as meaning
  union all
  select 2, 'schedule', null, s.job || ': ' || s.schedule, s.command, case when s.active then 'on' else 'off' end
  from pg_temp.watch_schedules() as s
  union all
  select 3, 'run of pg_cron', r.started_at, r.job, r.message, r.status from pg_temp.watch_runs('generation-worker%', 10) as r
  union all
  select 4, 'call', c.called_at, c.cause, concat_ws(' ', c.status, c.answer), c.meaning from pg_temp.watch_calls(10) as c
) as w
order by w.place, w.at desc nulls last, w.what;
