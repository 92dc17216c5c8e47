-- The plan for functions, and the names that are taken by something else.

create or replace function pg_temp.plan_functions() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (object, difference, action)
  select 'functions', format('%s missing', count(*)), 'will be made'
  from pg_temp.upgrade_target as t
  where t.kind = 'function' and not exists (
    select from pg_temp.upgrade_actual as a where (a.kind, a.tab, a.name) = ('function', t.tab, t.name))
  having count(*) > 0;

  insert into pg_temp.upgrade_finding (object, difference, action)
  select 'functions', format('%s of another version: %s', count(*), string_agg(t.tab || '.' || t.name, ', ' order by t.name)),
    'will be replaced'
  from pg_temp.upgrade_target as t
  join pg_temp.upgrade_actual as a on (a.kind, a.tab, a.name) = ('function', t.tab, t.name)
  where a.definition <> t.definition and pg_temp.is_ours()
  having count(*) > 0;

  -- What `create or replace` cannot do: another result, or other parameters of an internal function.
  insert into pg_temp.upgrade_finding (object, difference, action, phase)
  select format('function %s.%s', a.tab, a.name), 'of another version', format('drop function %s.%s', a.tab, a.name), 1
  from pg_temp.upgrade_actual as a
  left join pg_temp.upgrade_target as t on (t.kind, t.tab, t.name) = ('function', a.tab, a.name)
  where a.kind = 'function' and pg_temp.is_ours() and case when t.name is null then a.tab = 'generation'
    else substring(a.definition from '\n RETURNS [^\n]*') <> substring(t.definition from '\n RETURNS [^\n]*') end
  order by a.tab, a.name;

  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select format('function %s.%s', a.tab, a.name), case when t.name is null then 'another function of the same name'
      else 'a function of the same name that is not ours' end,
    format('rename or drop it: alter function %s.%s rename to …', a.tab, a.name), true
  from pg_temp.upgrade_actual as a
  left join pg_temp.upgrade_target as t on (t.kind, t.tab, t.name) = ('function', a.tab, a.name)
  where a.kind = 'function' and (t.name is null and a.tab = 'public' or not pg_temp.is_ours())
  order by a.tab, a.name;

  insert into pg_temp.upgrade_finding (object, difference, action)
  select 'function ' || p.oid::regprocedure, 'the app''s own, mentions the queue', 'kept: see whether it relies on an old type'
  from pg_catalog.pg_proc as p
  where p.prokind in ('f', 'p') and p.pronamespace not in (
      select n.oid from pg_catalog.pg_namespace as n
      where n.nspname in ('generation', 'pg_catalog', 'information_schema') or n.nspname like 'pg\_temp%')
    and p.prosrc like '%photo\_generation\_queue%'
    and not exists (
      select from pg_temp.upgrade_target as t where t.kind = 'function' and split_part(t.name, '(', 1) = p.proname)
  order by 1;
$$;

create or replace function pg_temp.plan_collisions() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select 'schema generation', 'holds objects that are not ours', 'rename it: alter schema generation rename to …', true
  where to_regnamespace('generation') is not null and not pg_temp.is_ours() and (
    exists (select from pg_catalog.pg_class as c where c.relnamespace = to_regnamespace('generation'))
    or exists (select from pg_catalog.pg_proc as p where p.pronamespace = to_regnamespace('generation')));

  -- A table of one of our names that is not the queue and was not made by us.
  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select distinct d.tab, 'a table of the same name that is not ours', format('rename it: alter table %s rename to …', d.tab), true
  from (
    select t.tab from pg_temp.upgrade_target as t
    left join pg_temp.upgrade_actual as a on (a.kind, a.tab, a.name, a.definition) = (t.kind, t.tab, t.name, t.definition)
    where a.tab is null and t.kind in ('column', 'required')
    union all
    select a.tab from pg_temp.upgrade_actual as a
    left join pg_temp.upgrade_target as t on (a.kind, a.tab, a.name) = (t.kind, t.tab, t.name)
    where t.tab is null and a.kind = 'column'
  ) as d
  where d.tab <> 'public.photo_generation_queue' and not pg_temp.is_ours() and to_regclass(d.tab) is not null;

  -- `create index if not exists` is content with anything of that name.
  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select c.oid::regclass::text, 'has the name of an index of ours', 'rename or drop it', true
  from pg_temp.upgrade_target as t
  join pg_catalog.pg_class as c on c.oid = to_regclass(format('%s.%I', split_part(t.tab, '.', 1), t.name))
  where t.kind = 'index' and not exists (
    select from pg_temp.upgrade_actual as a where (a.kind, a.tab, a.name) = ('index', t.tab, t.name));

  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select 'role ' || r, 'does not exist', 'make it: it belongs to every Supabase', true
  from unnest(array['anon', 'authenticated', 'service_role']) as r where to_regrole(r) is null;

  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select t.tab, 'belongs to ' || c.relowner::regrole, 'run this as its owner', true
  from pg_temp.upgrade_actual as t join pg_catalog.pg_class as c on c.oid = to_regclass(t.tab)
  where t.kind = 'table' and not pg_catalog.pg_has_role(current_user, c.relowner, 'usage');

  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase)
  select t.tab, t.tab, 'row-level security is forced on its owner, whom our functions run as',
    format('alter table %s no force row level security', t.tab), 1
  from pg_temp.upgrade_actual as t join pg_catalog.pg_class as c on c.oid = to_regclass(t.tab)
  where t.kind = 'table' and c.relforcerowsecurity;
$$;

-- A bucket of our name may be one of ours, or one made beforehand as ours would be: private.
create or replace function pg_temp.plan_bucket() returns void
language plpgsql as $$
begin
  if to_regclass('storage.buckets') is null then
    return;
  end if;
  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select 'bucket generated-photos', 'is public: everybody could read the generated photos',
    'make it private: update storage.buckets set public = false where id = ''generated-photos''', true
  from storage.buckets as b where b.id = 'generated-photos' and b.public;
  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select 'bucket generated-photos', 'exists and is not ours: it holds objects of the app', 'move them into another bucket', true
  where not pg_temp.is_ours() and exists (select from storage.objects as o where o.bucket_id = 'generated-photos');
end
$$;
