-- Takes back schedule.sql, kick.sql and call.sql; the queue and its jobs stay as they are, and so do the runs under way.
-- In the SQL editor or psql, as the role that ran schedule.sql; safe to run again. Vault's secrets stay until:
--
--   delete from vault.secrets where name in ('generation_worker_url', 'generation_worker_secret');
--
-- What call.sql revoked stays revoked: other roles cannot read what pg_net has yet to send.

begin;

set local lock_timeout = '10s';

do $$
begin
  if to_regclass('cron.job') is not null then
    perform cron.unschedule(j.jobid) from cron.job as j
    where j.jobname in ('generation-worker', 'generation-worker-sweep', 'generation-worker-prune', 'generation-worker-history')
      and (j.username = current_user or has_table_privilege('cron.job', 'delete'));
  end if;
end
$$;

drop trigger if exists photo_generation_queue_kick on public.photo_generation_queue;
drop function if exists generation.kick_worker();
drop function if exists generation.was_kicked();
drop function if exists generation.call_worker(text, text);
drop function if exists generation.worker_url();
drop function if exists generation.worker_secret();
drop function if exists generation.vault_secret(text, text, text);
drop table if exists generation.worker_calls;

commit;
