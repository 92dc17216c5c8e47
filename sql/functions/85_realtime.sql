-- Realtime: what changes in a batch, its jobs and its photos is told to whoever subscribes and may read the row: row-level
-- security decides for each subscriber. Each change of a row of these tables becomes one message of the write-ahead
-- log for Realtime to look at, subscribers or not; to leave a table out, afterwards:
-- alter publication supabase_realtime drop table public.photo_generation_queue;
-- Row-level security does not reach deleted rows: Realtime tells every subscriber their ids. What is published is a setting of
-- the whole publication, so where it has tables of the app too, it is left as it is; where it has only ours, it publishes
-- inserts and updates. Without the publication, which every Supabase project has, there is nothing to do.
do $$
declare
  v_table text;
begin
  if not exists (select from pg_catalog.pg_publication as p where p.pubname = 'supabase_realtime' and not p.puballtables) then
    return;
  end if;
  foreach v_table in array array['photo_generation_batches', 'photo_generation_queue', 'photo_generation_photos'] loop
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
      where t.pubname = p.pubname and (t.schemaname <> 'public' or t.tablename not in (
        'photo_generation_batches', 'photo_generation_queue', 'photo_generation_photos')))
  ) then
    alter publication supabase_realtime set (publish = 'insert, update');
    raise notice 'supabase_realtime publishes inserts and updates: ids of deleted rows would reach every subscriber.';
  end if;
exception
  when insufficient_privilege then
    raise warning 'Not the owner of the publication supabase_realtime: add the three tables in the dashboard (Database, Publications).';
end
$$;
