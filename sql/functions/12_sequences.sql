-- A restore of rows without their sequences leaves the sequences behind the highest ids, so every insert would fail on the primary
-- key. This sets them to the highest id.
do $$
declare
  v_table text;
  v_sequence text;
begin
  foreach v_table in array array['public.photo_generation_queue', 'public.photo_generation_photos'] loop
    v_sequence := pg_get_serial_sequence(v_table, 'id');
    execute format('select setval(%L, n.id) from (select max(t.id) as id from %s as t) as n, %s as s where n.id >= s.last_value',
      v_sequence, v_table, v_sequence);
  end loop;
end
$$;

-- Between the installation and migrate_old_queue.sql's copying of the older worker's jobs, new jobs get ids after those jobs', and photos
-- may come from any public host if those jobs' photos did.
do $$
begin
  if to_regclass('public.photo_generation_queue_old') is not null and to_regclass('public.photo_generation_queue_old_ids') is null then
    execute $sql$
      select setval(s.name, n.id) from (
        select max((j ->> 'id')::bigint) as id
        from (select to_jsonb(o) as j from public.photo_generation_queue_old as o) as r where j ->> 'id' ~ '^\d{1,18}$'
      ) as n, pg_get_serial_sequence('public.photo_generation_queue', 'id') as s (name)
      where n.id > (select coalesce(pg_sequence_last_value(s.name::regclass), 0))
    $sql$;
    execute $sql$
      insert into generation.photo_hosts (host)
      select '*' where exists (select from public.photo_generation_queue_old as o where to_jsonb(o)::text ~* '["{,]https://')
      on conflict do nothing
    $sql$;
  end if;
end
$$;
