-- Whether the database's rights are those of 80_access.sql. A restore, another migration or a click in the dashboard can have opened or
-- closed something. Refuses callers only.

-- The queue's tables; `open` says that users may read their own rows.
create or replace function generation.own_tables() returns table (id oid, name text, open boolean, secured boolean)
language sql stable set search_path = ''
as $$
  select c.oid, format('%s.%s', n.nspname, c.relname), n.nspname = 'public', c.relrowsecurity
  from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
  where c.relkind in ('r', 'p')
    and (n.nspname = 'generation' or n.nspname = 'public' and c.relname in (select t.name from generation.table_callers() as t))
$$;

-- What the roles of the API may do but should not, or should do but may not: {object, problem}.
create or replace function generation.deviating_grants() returns table (object text, problem text)
language sql stable set search_path = ''
as $$
  with roles as (
    select r.role, r.is_service from (values ('anon', false), ('authenticated', false), ('service_role', true)) as r (role, is_service)
  ), rights as (
    select f.id::regprocedure::text as object, r.role, 'call it' as deed, has_function_privilege(r.role, f.id, 'execute') as may,
      r.is_service or f.for_users and r.role = 'authenticated' as should
    from generation.api_functions() as f cross join roles as r
    union all
    select t.name, r.role, p.privilege, has_table_privilege(r.role, t.id, p.privilege)
        or p.privilege in ('select', 'insert', 'update') and has_any_column_privilege(r.role, t.id, p.privilege),
      exists (
        select from generation.table_callers() as c
        where t.open and t.name = 'public.' || c.name and c.role = r.role and p.privilege = any (c.privileges))
    from generation.own_tables() as t cross join roles as r
    cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate']) as p (privilege)
    -- The service role passes row-level security anyway; what it may do with the internal tables opens nothing.
    where t.open or not r.is_service
    union all
    select 'generation', r.role, 'use the schema', has_schema_privilege(r.role, 'generation', 'usage'), false
    from roles as r where not r.is_service
    union all
    select format('sequence %s', c.oid::regclass), r.role, 'use it', has_sequence_privilege(r.role, c.oid, 'usage, update'), false
    from pg_catalog.pg_depend as d join pg_catalog.pg_class as c on c.oid = d.objid and c.relkind = 'S'
    join generation.own_tables() as t on t.id = d.refobjid
    cross join roles as r
  )
  select x.object, format('%s %s %s', x.role, case when x.may then 'may' else 'may not' end, string_agg(x.deed, ', ' order by x.deed))
  from rights as x where x.may <> x.should
  group by x.object, x.role, x.may
$$;

-- What is wrong with row-level security and its policies: {object, problem, ours}; `ours` is false for a policy that is the app's.
create or replace function generation.deviating_policies() returns table (object text, problem text, ours boolean)
language sql stable set search_path = ''
as $$
  with wanted as (
    select t.id, t.name, w.policy, exists (
        select from pg_catalog.pg_policy as p
        where p.polrelid = t.id and p.polname = w.policy and p.polcmd = 'r' and p.polpermissive
          and p.polroles = array['authenticated'::regrole::oid]
          and pg_get_expr(p.polqual, p.polrelid) ~ '^[(]+ *SELECT .*request[.]jwt[.]claims.*sub.*[)] = "userId"[)]$'
      ) as found
    from generation.own_tables() as t
    join (values ('public.photo_generation_batches', 'own batches'), ('public.photo_generation_queue', 'own jobs'),
      ('public.photo_generation_photos', 'own photos')) as w (name, policy) on w.name = t.name
    union all
    select c.oid, 'storage.objects', 'own generated photos', exists (
        select from pg_catalog.pg_policy as p
        where p.polrelid = c.oid and p.polname = 'own generated photos' and p.polcmd = 'r' and p.polpermissive
          and p.polroles = array['authenticated'::regrole::oid]
          and pg_get_expr(p.polqual, p.polrelid) ~ 'bucket_id = ''generated-photos''.* AND .*request[.]jwt[.]claims.*sub'
      )
    from pg_catalog.pg_class as c where c.oid = to_regclass('storage.objects')
  )
  select t.name, 'row-level security is off', true from generation.own_tables() as t where not t.secured
  union all
  select w.name, format('policy "%s" is missing or changed', w.policy), true from wanted as w where not w.found
  union all
  select t.name, format('policy "%s" is not the queue''s and may open more', p.polname), false
  from generation.own_tables() as t join pg_catalog.pg_policy as p on p.polrelid = t.id and p.polpermissive
  where not exists (select from wanted as w where w.id = t.id and w.policy = p.polname)
  union all
  select 'storage.objects', 'row-level security is off', false from pg_catalog.pg_class as c
  where c.oid = to_regclass('storage.objects') and not c.relrowsecurity
$$;

-- Every difference between the rights in this database and what they should be: {findings: [{object, problem, ours}]}. What is
-- `ours` is corrected by running install.sql again. Safe to repeat: reads only.
create or replace function public.generation_access_findings() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  return jsonb_build_object('findings', (
    select coalesce(jsonb_agg(to_jsonb(d) order by d.ours desc, d.object, d.problem), '[]')
    from (
      select g.object, g.problem, true as ours from generation.deviating_grants() as g
      union all
      select p.object, p.problem, p.ours from generation.deviating_policies() as p
    ) as d));
end
$$;
