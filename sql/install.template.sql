-- The whole queue in one file and one transaction; safe to run again. In the SQL editor, or:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/install.sql
--
-- A new project gets everything; an installation of an earlier version is brought up to date. A project with the table of the
-- older worker needs migrate_old_queue.sql first.

begin;

-- Refuses a database that is not Supabase's: grants and policies name its three roles.
do $$
declare
  v_missing text := (
    select string_agg(r.name, ', ' order by r.name)
    from unnest(array['anon', 'authenticated', 'service_role']) as r (name)
    where to_regrole(r.name) is null);
begin
  if v_missing is not null then
    raise exception using
      message = format('This is not a Supabase database: it has no role %s. Nothing was changed.', v_missing),
      hint = 'Use the connection string from the project''s dashboard (Connect, direct connection or session pooler).';
  end if;
end
$$;

-- Refuses the older worker's table. The view that migrate_old_queue.sql has left in its place goes.
do $$
declare
  v_queue constant oid := to_regclass('public.photo_generation_queue');
  v_kind constant "char" := (select c.relkind from pg_catalog.pg_class as c where c.oid = v_queue);
begin
  if v_kind = 'v' and to_regclass('public.photo_generation_queue_old') is not null then
    set local lock_timeout = '10s';
    drop view public.photo_generation_queue;
  elsif v_kind is not null and not exists (
    select from pg_catalog.pg_attribute as a where a.attrelid = v_queue and a.attname = 'startTag') then
    raise exception using message = 'Not installed; there is an older photo_generation_queue.',
      hint = 'Run sql/migrate_old_queue.sql.';
  end if;
end
$$;

-- All tables that are there are locked before anything changes. Who works with them holds one while waiting
-- for another, in any order; so an attempt that cannot have them all in time gives them back: no deadlock.
do $$
declare
  v_tables constant text := (
    select string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by c.oid)
    from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'r' and (n.nspname = 'generation' or n.nspname = 'public' and c.relname in (
      'photo_generation_batches', 'photo_generation_queue', 'photo_generation_photos')));
begin
  for v_attempt in 1 .. 50 loop
    exit when v_tables is null;
    begin
      set local lock_timeout = '200ms';
      execute format('lock table %s in access exclusive mode', v_tables);
      exit;
    exception
      when lock_not_available then
        if v_attempt = 50 then
          raise exception 'Not installed; a long transaction, such as a backup, holds the queue''s tables.'
            using hint = 'Run this again when it has ended; pg_stat_activity shows it.';
        end if;
        perform pg_sleep(0.2);
    end;
  end loop;
  -- For what is not ours: on Supabase a policy locks the tables of auth, storage and realtime until the end.
  set local lock_timeout = '10s';
end
$$;

-- Migrations run once each, in order; the highest is the version of the schema.
create schema if not exists generation;
comment on schema generation is 'Internals of the generation queue; not exposed through the API.';

create table if not exists generation.schema_migrations (
  number integer primary key,
  name text not null,
  -- SHA-256 of the file.
  hash text not null,
  "appliedAt" timestamptz not null default now()
);

create or replace procedure pg_temp.migrate(p_number integer, p_name text, p_hash text, p_body text)
language plpgsql as $$
declare
  v_hash constant text := (select m.hash from generation.schema_migrations as m where m.number = p_number);
begin
  if v_hash is null then
    execute p_body;
    insert into generation.schema_migrations (number, name, hash) values (p_number, p_name, p_hash);
  elsif v_hash <> p_hash then
    raise exception 'Not installed; migration % (%) has changed since it ran in this database.', p_number, p_name
      using hint = 'Take sql/install.sql from a release, unchanged.';
  end if;
end
$$;

-- Views are made anew, so that migrations can change the columns they show.
-- {views}

-- {migrations}

do $$
declare
  v_version constant integer := (select max(m.number) from generation.schema_migrations as m);
begin
  if v_version > {version} then
    raise exception 'Not installed; the database is at %, this file is for {version}.', v_version
      using hint = 'Take the newer sql/install.sql: a database does not go back.';
  end if;
end
$$;

-- Functions are made anew, so that none of an earlier version stays, with other parameters or without use. One that something else
-- needs, such as a trigger, is replaced where it stands. Those of sql/schedule/ are not touched.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc as p
    where p.prokind = 'f' and case p.pronamespace
        when 'generation'::regnamespace then p.proname not in ({schedule})
        when 'public'::regnamespace then p.prosrc ~ '\mgeneration[.]' and p.proname in ({public})
        else false
      end
      and not exists (
        select from pg_catalog.pg_depend as d
        where d.refclassid = 'pg_catalog.pg_proc'::regclass and d.refobjid = p.oid and d.deptype = 'n')
  loop
    execute format('drop function %s', v_function);
  end loop;
end
$$;

-- {functions}

notify pgrst, 'reload schema';

commit;

-- Without ON_ERROR_STOP psql goes on after an error, and would end in success.
do $$
begin
  if to_regprocedure('public.generation_schema_version()') is null then
    raise exception 'Nothing was installed; the first error above says why.'
      using hint = 'psql -v ON_ERROR_STOP=1 stops at that error and exits with 3.';
  end if;
end
$$;
