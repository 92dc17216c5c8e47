-- Takes the queue out of a project again. Stop the clocks and the workers first (docs/update.md, "Uninstall"). In the SQL
-- editor, or as the role that installed:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/uninstall.sql
--
-- As it stands it removes the schedules, the functions and the schema `generation` with its settings and history. It keeps
-- the three tables in `public`: users can still read their orders, and find and open their photos. install.sql puts the
-- rest back and continues with the jobs that wait. To remove the tables and the policy for photos as well, delete the
-- two dashes of the line below `begin`, or, on a direct connection:
--
--   PGOPTIONS='-c generation.uninstall=with_tables' psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/uninstall.sql
--
-- The photos stay in Storage in any case: SQL must not delete objects. One transaction; it refuses, and changes nothing,
-- while the app's own objects depend on ours or lie in the schema `generation`, or while an erased user's photos are still being
-- removed. Safe to run again.

begin;
-- set local generation.uninstall = 'with_tables';

set local search_path = '';
set local lock_timeout = '10s';
set local client_min_messages = warning;

do $$
declare
  v_mode text := coalesce(nullif(current_setting('generation.uninstall', true), ''), 'keep_tables');
  v_functions text;
  v_tables text;
  v_open bigint := 0;
begin
  if v_mode not in ('keep_tables', 'with_tables') then
    raise exception 'generation.uninstall is %', v_mode using hint = 'Set it to with_tables, or leave it out to keep the tables.';
  end if;
  if to_regclass('generation.erasures') is not null then
    execute 'select count(*) from generation.erasures' into v_open;
  end if;
  if v_open > 0 then
    raise exception 'The photos of % erased users are still being removed from Storage.', v_open
      using hint = 'Let the sweep finish: python -m worker sweep. Then run this again.';
  end if;

  if to_regclass('cron.job') is not null then
    execute $cron$
      select cron.unschedule(j.jobid) from cron.job as j
      where j.jobname in ('generation-worker', 'generation-worker-sweep', 'generation-worker-prune', 'generation-worker-history')
    $cron$;
  end if;

  if to_regclass('public.photo_generation_queue') is not null then
    drop trigger if exists photo_generation_queue_adopt on public.photo_generation_queue;
    drop trigger if exists photo_generation_queue_kick on public.photo_generation_queue;
    drop trigger if exists photo_generation_queue_mark on public.photo_generation_queue;
    drop trigger if exists photo_generation_queue_mark_new on public.photo_generation_queue;
    drop trigger if exists photo_generation_queue_mark_old on public.photo_generation_queue;
    drop trigger if exists photo_generation_queue_mark_all on public.photo_generation_queue;
  end if;
  if to_regclass('public.photo_generation_photos') is not null then
    drop trigger if exists photo_generation_photos_mark on public.photo_generation_photos;
    drop trigger if exists photo_generation_photos_mark_new on public.photo_generation_photos;
    drop trigger if exists photo_generation_photos_mark_all on public.photo_generation_photos;
  end if;
  if to_regclass('generation.failed_images') is not null then
    drop trigger if exists failed_images_mark on generation.failed_images;
    drop trigger if exists failed_images_mark_new on generation.failed_images;
    drop trigger if exists failed_images_mark_all on generation.failed_images;
  end if;

  -- Functions together, then tables together, so that their order does not matter; nothing is dropped by `cascade`. What is ours
  -- has a name of ours, in public also a body that uses our schema. A table of the app's own in that schema stops it at the end.
  select string_agg(p.oid::regprocedure::text, ', ') into v_functions
  from pg_catalog.pg_proc as p
  where p.pronamespace = to_regnamespace('generation') or (p.pronamespace = 'public'::regnamespace and p.prosrc ~ '\mgeneration[.]' and p.proname in (
    'add_generation_photo_host',
    'cancel_generation_batch',
    'claim_generation_jobs',
    'enqueue_generation_batch',
    'erase_generation_user',
    'finish_generation_run',
    'generation_access_findings',
    'generation_details',
    'generation_erasures_to_sweep',
    'generation_gate',
    'generation_jobs_to_sweep',
    'generation_models',
    'generation_overview',
    'generation_photo_hosts',
    'generation_queue_stats',
    'generation_schema_version',
    'get_generation_batch',
    'pause_generation',
    'peek_generation_jobs',
    'prune_generation_history',
    'record_failed_image',
    'record_generated_photo',
    'release_stale_generation_jobs',
    'remove_generation_gate',
    'remove_generation_photo_host',
    'report_rate_limit',
    'report_storage',
    'resume_generation',
    'retire_generation_model',
    'retry_failed_generation_jobs',
    'set_generation_limits',
    'set_generation_model',
    'set_generation_model_successor',
    'set_generation_rate',
    'settle_generation_erasure',
    'settle_generation_jobs',
    'settle_swept_generation_jobs',
    'take_start_slots'
  ));
  if v_functions is not null then
    execute 'drop function ' || v_functions;
  end if;

  drop view if exists generation.ready_jobs, generation.waiting_jobs, generation.held_jobs, generation.unswept_jobs;

  -- A queue's table of before the installation has none of the columns below, and is the app's own.
  select string_agg(distinct c.oid::regclass::text, ', ') into v_tables
  from pg_catalog.pg_class as c
  join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where c.relkind in ('r', 'p') and (
    (c.relnamespace = to_regnamespace('generation') and c.relname in ('changed_minutes', 'counting', 'counts', 'erasures', 'failed_images', 'flows', 'gate_turns', 'gates',
      'idempotency_keys', 'limits', 'models', 'photo_buckets', 'photo_hosts', 'prices', 'runs', 'schema_migrations', 'virtual_times', 'worker_calls'))
    or (v_mode = 'with_tables' and c.relnamespace = 'public'::regnamespace and (c.relname, a.attname) in (
      ('photo_generation_batches', 'imagesTotal'), ('photo_generation_queue', 'startTag'), ('photo_generation_photos', 'imageIndex'))));
  if v_tables is not null then
    execute 'drop table ' || v_tables;
  end if;
  drop schema if exists generation;

  -- Where it was ours alone it published inserts and updates; now it is as Supabase made it.
  if exists (
    select from pg_catalog.pg_publication as p
    where p.pubname = 'supabase_realtime' and p.pubinsert and p.pubupdate and not p.pubdelete
      and not exists (select from pg_catalog.pg_publication_tables as t where t.pubname = p.pubname)
  ) then
    alter publication supabase_realtime set (publish = 'insert, update, delete, truncate');
  end if;

  if v_mode = 'with_tables' and to_regclass('storage.objects') is not null then
    drop policy if exists "own generated photos" on storage.objects;
  end if;
end
$$;

notify pgrst, 'reload schema';

commit;
