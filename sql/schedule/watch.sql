-- Does the database call the worker, and does the worker answer? One table: first a verdict a line, each followed by what
-- to do if something is wrong; then the schedules, the latest runs of pg_cron and the latest calls. In the SQL editor or
-- psql (80 columns do); run it as the role that ran call.sql. Changes nothing. pg_net keeps answers for six hours.

-- How long nothing is known of a call that may still be well: pg_net begins no batch before the last answer of the one
-- before, up to 250 s, and then waits as long for this call's own answer.
create or replace function pg_temp.patience() returns interval
language sql immutable set search_path = ''
as $$ select interval '510 seconds' $$;

create or replace function pg_temp.moment(p_at timestamptz) returns text
language sql stable set search_path = ''
as $$ select to_char(p_at, case when p_at > now() - interval '12 hours' then 'HH24:MI:SS' else 'DD Mon' end) $$;

-- A text in lines of 55 characters at most.
create or replace function pg_temp.wrapped(p_text text) returns text
language sql immutable set search_path = ''
as $$
  select string_agg(m.parts[1], E'\n' order by m.ordinality)
  from regexp_matches(btrim(p_text, E' \n'), '[ \n]*([^\n]{1,55}(?=[ \n]|$)|[^ \n]{55})', 'g') with ordinality as m (parts, ordinality)
$$;

-- The JSON object in an answer, null if there is none.
create or replace function pg_temp.json_answer(p_content text) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
  return case when jsonb_typeof(p_content::jsonb) = 'object' then p_content::jsonb end;
exception
  when others then
    return null;
end
$$;

-- What an answer says: the error with its hint; a summary with its problem, whole; of anything else the beginning.
create or replace function pg_temp.answer_text(p_content text) returns text
language sql immutable set search_path = ''
as $$
  select case
    when jsonb_typeof(j.answer -> 'error') = 'object' then concat_ws(E'\n',
      concat_ws(': ', j.answer -> 'error' ->> 'code', j.answer -> 'error' ->> 'message'), j.answer -> 'error' ->> 'hint')
    when j.answer is not null then concat_ws(E'\n',
      concat_ws(', ', j.answer ->> 'stopReason', j.answer ->> 'error', j.answer ->> 'message', (
        select string_agg(f.key || ' ' || f.value, ', ' order by f.key) from jsonb_each_text(j.answer) as f
        where f.value ~ '^[1-9]\d*$' and f.key <> 'claimed')),
      'problem: ' || (j.answer ->> 'problem'))
    else left(btrim(regexp_replace(p_content, '(<[^>]*>|\s)+', ' ', 'g')), 300)
  end
  from (select pg_temp.json_answer(p_content) as answer) as j
$$;

-- Why an answered call failed and what to do, by its HTTP status and the code in the worker's own answer.
create or replace function pg_temp.refusal(p_status integer, p_code text) returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_code = 'not_signed_in' then
      'generate_images answered, which takes orders: put the address of process_generation_queue into generation_worker_url.'
    when p_code = 'no_credentials' then
      'The worker has no WORKER_SECRET: it was deployed for another clock. Deploy it with _CLOCK=pg_cron.'
    when p_code = 'wrong_secret' then 'generation_worker_secret in Vault must equal the worker''s WORKER_SECRET.'
    when p_code = 'method_not_allowed' then
      'A redirect turned the POST into a GET: put the final https:// address into generation_worker_url.'
    when p_status in (401, 403) and p_code is null then
      'The worker was not asked, its platform refused: Cloud Run must allow unauthenticated calls; the secret guards.'
    when p_status in (404, 405) then 'generation_worker_url is not the address of process_generation_queue.'
    when p_status = 429 then 'Cloud Run has no instance free; the next tick finds one.'
    when p_status = 503 then 'The worker is not up, or cannot reach Supabase; its log says which.'
    when p_status = 504 then 'The platform ended the run: its timeout is below INVOCATION_TIMEOUT_SECONDS.'
    when p_status between 300 and 399 then 'Put the final https:// address into generation_worker_url.'
    else 'The answer and the worker''s log say why.'
  end
$$;

-- Why no answer came, by pg_net's own message, which is curl's.
create or replace function pg_temp.no_answer(p_error text) returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_error ~ '^Timeout' and p_error ~ 'Response time: 0\.0+ ms' then
      'No connection: is the host in generation_worker_url right, and does a firewall let the database through?'
    when p_error ~ '^Timeout' then
      'The worker was reached and had not answered in time. The run goes on and ends by itself; generation.runs has its end. '
      'INVOCATION_TIMEOUT_SECONDS must be at most 240.'
    when p_error ~ '^Server returned nothing' then
      'The worker was reached and ended in the middle of the call: out of memory, or replaced by a new deployment. Its log '
      'says which. What it held comes back by itself.'
    when p_error ~ 'connect to server' then
      'Nothing listens at the address in generation_worker_url: start the worker, or open the port. For the database '
      'localhost is its own machine; from a container it is host.docker.internal.'
    when p_error ~ 'resolve' then 'There is no such host: correct generation_worker_url in Vault.'
    when p_error ~ 'SSL|TLS' then 'TLS failed: does the address speak https, with a valid certificate?'
    when p_error ~ 'redirects' then 'Redirects in a circle: put the final https:// address into generation_worker_url.'
    else 'The connection broke during the call. The run may have gone on; generation.runs has its end.'
  end
$$;

-- Whether some run was at work after a moment: then the calls do reach the worker, whatever became of their answers.
create or replace function pg_temp.was_working(p_since timestamptz) returns boolean
language sql stable set search_path = ''
as $$
  select exists (
    select from generation.runs as r
    where r."startedAt" > p_since - interval '10 minutes' and coalesce(r."finishedAt", least(r."endsBy", now())) > p_since)
$$;

-- What became of a call. An answer belongs to a call only if its batch began soon after it, and to the latest call with
-- its id, for ids begin again after a crash of the database. state is: ok; under way; failed (the worker did not do it);
-- unheard (it may have: it was reached, or nothing is known).
create or replace function pg_temp.call_state(p_age interval, p_status integer, p_error text, p_answered boolean) returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_status between 200 and 299 then 'ok'
    when p_status = 429 or p_error ~ '^Timeout.*Response time: (?!0\.0+ ms)|returned nothing|receiving|sending' then 'unheard'
    when p_answered then 'failed'
    when p_age < pg_temp.patience() then 'under way'
    else 'unheard'
  end
$$;

-- Why there is neither an answer nor hope of one. While runs are at work it is only the answer that is missing.
create or replace function pg_temp.lost_call(p_request_id bigint, p_called_at timestamptz) returns text
language plpgsql stable set search_path = ''
as $$
begin
  return case
    when pg_temp.was_working(p_called_at) then 'Runs have been at work since then; only this answer is missing.'
    when exists (select from net.http_request_queue as q where q.id = p_request_id) then
      'pg_net has not sent it, or waits for another request: is its process running? select net.worker_restart();'
    else 'No answer is kept: the database or pg_net stopped meanwhile (select net.worker_restart(); starts pg_net), or it is six hours ago.'
  end;
end
$$;

-- The latest p_limit calls. A call whose id is in pg_net's queue waits there or is being sent; one whose id is not has been
-- answered or lost.
create or replace function pg_temp.watch_calls(p_limit integer)
returns table (called_at timestamptz, call text, state text, said text, why text, run_id text)
language plpgsql set search_path = ''
as $$
begin
  if to_regclass('generation.worker_calls') is null or to_regclass('net._http_response') is null then
    return;
  end if;
  return query
  select c."calledAt", c.cause || ' ' || c.path,
    pg_temp.call_state(now() - c."calledAt", a.status_code, a.error_msg, a.id is not null),
    concat_ws(', ', a.status_code, nullif(coalesce(a.error_msg, pg_temp.answer_text(a.content)), '')),
    case
      when a.status_code is not null then pg_temp.refusal(a.status_code, pg_temp.json_answer(a.content) -> 'error' ->> 'code')
      when a.id is not null then pg_temp.no_answer(a.error_msg)
      else pg_temp.lost_call(c."requestId", c."calledAt")
    end,
    pg_temp.json_answer(a.content) ->> 'runId'
  from (
    select w.*, lead(w."calledAt") over (partition by w."requestId" order by w."calledAt") as again
    from generation.worker_calls as w
    order by w."calledAt" desc limit p_limit
  ) as c
  left join lateral (
    select r.* from net._http_response as r
    where r.id = c."requestId" and r.created > c."calledAt" - interval '5 seconds'
      and r.created < least(c."calledAt" + pg_temp.patience(), c.again)
    order by r.created limit 1
  ) as a on true
  order by c."calledAt" desc;
end
$$;

create or replace function pg_temp.watch_schedules()
returns table (jobid bigint, job text, schedule text, active boolean, owner text)
language plpgsql set search_path = ''
as $$
begin
  if to_regclass('cron.job') is not null then
    return query select j.jobid, j.jobname::text, j.schedule, j.active, j.username
    from cron.job as j where j.jobname like 'generation-worker%';
  end if;
end
$$;

create or replace function pg_temp.watch_runs(p_job text, p_limit integer)
returns table (runid bigint, started_at timestamptz, job text, status text, message text)
language plpgsql set search_path = ''
as $$
begin
  if to_regclass('cron.job_run_details') is not null then
    return query select d.runid, d.start_time, j.jobname::text, d.status, d.return_message
    from cron.job_run_details as d join cron.job as j on j.jobid = d.jobid
    where j.jobname like p_job order by d.runid desc limit p_limit;
  end if;
end
$$;

-- Whether pg_cron ticks, and if not what to do.
create or replace function pg_temp.clock_verdict(out verdict text, out fix text)
language plpgsql set search_path = ''
as $$
declare
  v_schedule record;
  v_run record;
begin
  select * into v_schedule from pg_temp.watch_schedules() as s where s.job = 'generation-worker';
  if not found then
    verdict := 'Not ticking: nothing is scheduled here.';
    fix := 'Run sql/schedule/schedule.sql, unless another clock calls the worker. Another role''s schedules may be hidden from you ('
      || current_user || ').';
    return;
  elsif exists (select from pg_temp.watch_schedules() as s where s.job = v_schedule.job and s.owner <> v_schedule.owner) then
    verdict := 'Ticking twice: two roles have schedules.';
    fix := 'Keep those of the role that ran call.sql. The other role runs: '
      'select cron.unschedule(jobname) from cron.job where jobname like ''generation-worker%'' and username = current_user;';
    return;
  elsif not v_schedule.active then
    verdict := 'Not ticking: the schedule is switched off.';
    fix := format('select cron.alter_job(%s, active => true);', v_schedule.jobid);
    return;
  end if;
  select * into v_run from pg_temp.watch_runs('generation-worker', 1);
  if not found then
    verdict := 'Not yet: pg_cron has not run it.';
    fix := 'Look again in a minute.';
  elsif v_run.started_at < now() - interval '3 minutes' then
    verdict := format('Not ticking: pg_cron has run nothing since %s.', pg_temp.moment(v_run.started_at));
    fix := 'A restart of the database starts its process again.';
  elsif v_run.status = 'failed' then
    verdict := 'Not ticking: the last tick failed.';
    fix := v_run.message;
  else
    verdict := 'Ticking.';
  end if;
end
$$;

-- Whether the worker answers: the latest call that has ended decides, unless a newer one is in progress.
create or replace function pg_temp.worker_verdict(out verdict text, out fix text)
language plpgsql set search_path = ''
as $$
declare
  v_last record;
  v_open timestamptz;
  v_sweep record;
begin
  select * into v_last from pg_temp.watch_calls(50) as c where c.call like '% /' and c.state <> 'under way' limit 1;
  select * into v_sweep from pg_temp.watch_calls(50) as c where c.call like '% /sweep' and c.state <> 'under way' limit 1;
  select min(c.called_at) into v_open from pg_temp.watch_calls(50) as c
  where c.call like '% /' and c.state = 'under way' and c.called_at > coalesce(v_last.called_at, '-infinity');
  if v_last.state = 'ok' and v_sweep.state = 'failed' then
    verdict := 'Answering, but the last sweep failed.';
    fix := concat_ws(E'\n', v_sweep.said, v_sweep.why);
  elsif v_last.state = 'ok' then
    verdict := concat('Answering', '; a call is under way since ' || pg_temp.moment(v_open), '.');
  elsif v_last.state = 'unheard' and pg_temp.was_working(v_last.called_at) then
    verdict := 'At work, but its last answer was lost.';
  elsif v_last.state is not null then
    verdict := coalesce('A call is under way since ' || pg_temp.moment(v_open) || '; the last failed.', 'The last call failed.');
    fix := concat_ws(E'\n', v_last.said, v_last.why);
  else
    verdict := case when v_open is null then 'Not yet: nothing has called it.' else 'Not yet: the first answer is still to come.' end;
  end if;
end
$$;

-- Whether pg_net waits ten seconds longer than a run may take: the runs whose answers came say how long that is.
create or replace function pg_temp.timeout_verdict(out verdict text, out fix text)
language plpgsql set search_path = ''
as $$
declare
  v_seconds numeric := (
    select ceil(max(extract(epoch from r."endsBy" - r."startedAt"))) from generation.runs as r
    where r.id::text in (select c.run_id from pg_temp.watch_calls(50) as c));
begin
  if v_seconds > 240 then
    verdict := format('A run may take %s s, pg_net waits 250 s: too short.', v_seconds);
    fix := 'Set the worker''s INVOCATION_TIMEOUT_SECONDS to 240 at most: pg_net must wait 10 s longer, or it misses answers.';
  elsif v_seconds is not null then
    verdict := format('A run may take %s s, and pg_net waits 250 s.', v_seconds);
  end if;
end
$$;

select t.about, coalesce(pg_temp.moment(t.at), '') as at, pg_temp.wrapped(t.what) as what
from (
  select v.place, l.line, l.about, null::timestamptz as at, l.what
  from (
    select 1 as place, 'clock' as about, c.* from pg_temp.clock_verdict() as c
    union all
    select 2, 'worker', w.* from pg_temp.worker_verdict() as w
    union all
    select 3, 'timeout', o.* from pg_temp.timeout_verdict() as o
  ) as v cross join lateral (values (1, v.about, v.verdict), (2, 'fix', v.fix)) as l (line, about, what)
  union all
  select 4, 0, 'schedule', null, format('%s: %s, %s%s', s.job, s.schedule, case when s.active then 'on' else 'off' end,
      ', of ' || nullif(s.owner, current_user))
  from pg_temp.watch_schedules() as s
  union all
  select 5, -r.runid, 'pg_cron', r.started_at,
    format('%s: %s%s', r.job, r.status, E'\n' || case when r.status = 'failed' then r.message end)
  from pg_temp.watch_runs('generation-worker%', 10) as r
  union all
  select 6, 0, 'call', c.called_at,
    format('%s: %s%s', c.call, coalesce(nullif(c.said, ''), case c.state when 'under way' then c.state else 'no answer' end),
      E'\n' || case when c.state in ('failed', 'unheard') then c.why end)
  from pg_temp.watch_calls(10) as c
) as t
where t.what is not null
order by t.place, t.line, t.at desc nulls last, t.what;
