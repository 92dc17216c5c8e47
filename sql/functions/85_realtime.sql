-- Realtime sends changes of batches, jobs and photos to subscribers who may read the row, as row-level security decides. It reads each
-- change of a published table from the write-ahead log, even without subscribers. To leave a table out, run afterwards:
-- alter publication supabase_realtime drop table public.photo_generation_queue;
--
-- Row-level security does not apply to deleted rows: Realtime would send their ids to every subscriber. Which changes are published is a
-- setting of the whole publication. If it has only the queue's tables, it is set to publish inserts and updates; if it has tables of the
-- app too, it is left as it is. Without the publication, which every Supabase project has, there is nothing to do.
do $$
declare
  v_table text;
begin
  if not exists (select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime' and not p.puballtables) then
    return;
  end if;
  for v_table in select distinct c.name from generation.table_callers() as c loop
    if not exists (
      select from pg_catalog.pg_publication_tables as t
      where t.pubname = 'supabase_realtime' and t.schemaname = 'public' and t.tablename = v_table
    ) then
      execute format('alter publication supabase_realtime add table public.%I', v_table);
    end if;
  end loop;
  if exists (
    select from pg_catalog.pg_publication as p
    where p.pubname = 'supabase_realtime' and (p.pubdelete or p.pubtruncate) and not exists (
      select from pg_catalog.pg_publication_tables as t
      where t.pubname = p.pubname
        and (t.schemaname <> 'public' or t.tablename not in (select c.name from generation.table_callers() as c)))
  ) then
    alter publication supabase_realtime set (publish = 'insert, update');
    raise notice 'supabase_realtime publishes inserts and updates: ids of deleted rows would reach every subscriber.';
  end if;
exception
  when insufficient_privilege then
    raise warning 'Not the owner of the publication supabase_realtime: add the three tables in the dashboard (Database, Publications).';
end
$$;
