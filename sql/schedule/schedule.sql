-- The clock in the database: pg_cron calls the worker every minute. Run after call.sql, in the SQL editor or psql; running
-- it again updates, and leaves a job that is switched off as it is. Needs the extension pg_cron (Dashboard: Integrations,
-- Cron). unschedule.sql takes it back, watch.sql shows whether it ticks. A schedule belongs to the role that made it, and
-- two roles' schedules would call twice, so only the role that ran call.sql (`postgres`) may run this.
--
-- More often than once a minute, from pg_cron 1.5 on: take the two dashes off the line below `begin`, or, on a direct
-- connection, PGOPTIONS='-c generation.tick_seconds=15' psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/schedule/schedule.sql

begin;
-- set local generation.tick_seconds = '15';

do $$
declare
  v_version text := (select e.extversion from pg_catalog.pg_extension as e where e.extname = 'pg_cron');
  v_seconds text := nullif(current_setting('generation.tick_seconds', true), '');
  v_owner name := (select pg_catalog.pg_get_userbyid(p.proowner) from pg_catalog.pg_proc as p
    where p.oid = to_regprocedure('generation.call_worker(text, text)'));
  v_other text;
begin
  if v_version is null then
    raise exception 'The extension pg_cron is not enabled.'
      using hint = 'Dashboard: Integrations, Cron. Or run, in the database it is set up for: create extension pg_cron;';
  elsif to_regprocedure('generation.call_worker(text, text)') is null then
    raise exception 'The database does not know how to call the worker yet.' using hint = 'Run sql/schedule/call.sql first.';
  elsif v_owner <> current_user then
    raise exception 'Only the role % may schedule the worker: it ran call.sql. You are %.', v_owner, current_user
      using hint = format('Run this as %s. Schedules of two roles would call the worker twice.', v_owner);
  elsif v_seconds !~ '^[1-9][0-9]?$' or v_seconds::integer > 59 then
    raise exception 'generation.tick_seconds must be a whole number from 1 to 59, not %.', v_seconds
      using hint = 'For once a minute leave it out.';
  elsif v_seconds is not null and string_to_array(substring(v_version from '^\d+\.\d+'), '.')::integer[] < array[1, 5] then
    raise exception 'pg_cron % cannot run a schedule every % seconds; that needs pg_cron 1.5 or later.', v_version, v_seconds
      using hint = 'Upgrade the project (Dashboard: Settings, Infrastructure), or leave generation.tick_seconds out: once a minute works.';
  end if;
  -- Visible to superusers and to roles that bypass row security; the others see only their own.
  select j.username into v_other from cron.job as j
  where j.jobname in ('generation-worker', 'generation-worker-sweep', 'generation-worker-prune', 'generation-worker-history')
    and j.database = current_database() and j.username <> current_user;
  if found then
    raise exception 'The role % has scheduled the worker already; your schedules would call it a second time.', v_other
      using hint = format('As %s run: select cron.unschedule(jobname) from cron.job where jobname like ''generation-worker%%'' '
        'and username = current_user;', v_other);
  end if;
  perform generation.worker_url(), generation.worker_secret();

  perform cron.schedule('generation-worker', coalesce(v_seconds || ' seconds', '* * * * *'),
    $command$select generation.call_worker('/', 'tick')$command$);

  -- Objects in Storage that no row tells of. A sweep takes a minute at most.
  perform cron.schedule('generation-worker-sweep', '3-59/10 * * * *', $command$select generation.call_worker('/sweep', 'sweep')$command$);

  -- What ended 30 days ago; six times each night (pg_cron's hours are UTC), so that none of them is long.
  if to_regprocedure('public.prune_generation_history(integer, integer)') is not null then
    perform cron.schedule('generation-worker-prune', '*/10 3 * * *', $command$select public.prune_generation_history(30, 5000)$command$);
  end if;

  -- pg_cron never forgets a run by itself, and a clock makes 1440 rows a day. Only ours go: other jobs' are their owners'.
  perform cron.schedule('generation-worker-history', '45 4 * * *', $command$
    with calls as (delete from generation.worker_calls as c where c."calledAt" < now() - interval '7 days')
    delete from cron.job_run_details as d where d.command like '%generation%' and d.end_time < now() - interval '7 days'
  $command$);
end
$$;

commit;

select j.jobname as job, j.schedule,
  case when j.active then 'on'
    else format(E'off, and left off; switch it on:\nselect cron.alter_job(\n  %s, active => true);', j.jobid)
  end as state
from cron.job as j where j.jobname like 'generation-worker%' order by j.jobname;
