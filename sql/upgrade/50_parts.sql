-- The plan for constraints, indexes, triggers and whatever hangs on a column whose type changes.

-- The parts of existing tables that both have, or only one of them: `wanted` and `found` are definitions.
create or replace view pg_temp.upgrade_pair as
  select t.definition as wanted, a.definition as found,
    coalesce(t.kind, a.kind) as kind, coalesce(t.tab, a.tab) as tab, coalesce(t.name, a.name) as name
  from pg_temp.upgrade_target as t
  full outer join pg_temp.upgrade_actual as a on (a.kind, a.tab, a.name) = (t.kind, t.tab, t.name)
  where coalesce(t.kind, a.kind) in ('constraint', 'index', 'trigger')
    and exists (select from pg_temp.upgrade_actual as x where (x.kind, x.tab) = ('table', coalesce(t.tab, a.tab)))
    and t.definition is distinct from a.definition;

-- The columns an object of the catalogs reads, of those whose type changes.
create or replace function pg_temp.retyped_columns(p_class regclass, p_object oid) returns text
language sql stable as $$
  select string_agg(distinct a.attname, ', ')
  from pg_catalog.pg_depend as d
  join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
  join pg_temp.upgrade_retype as c on to_regclass(c.tab) = a.attrelid and c.name = a.attname
  where d.classid = p_class and d.objid = p_object and d.refclassid = 'pg_catalog.pg_class'::regclass
$$;

-- What the plan needs to know of an app's own constraint.
create or replace view pg_temp.upgrade_own_constraint as
  select p.tab, p.name, p.found, k.contype, pg_temp.retyped_columns('pg_catalog.pg_constraint', k.oid) as retyped,
    (select array_agg(a.attname::text) from pg_catalog.pg_attribute as a
      where a.attrelid = k.conrelid and a.attnum = any(k.conkey)) as columns
  from pg_temp.upgrade_pair as p
  inner join pg_catalog.pg_constraint as k on k.conrelid = to_regclass(p.tab) and k.conname = p.name
  where p.kind = 'constraint' and p.wanted is null;

create or replace function pg_temp.plan_constraints() returns void
language sql as $$
  -- The app's own: one that ours replaces or that stands in the way goes, the others stay.
  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase, blocking)
  select o.tab, format('%s, constraint %I', o.tab, o.name), o.found, case v.verdict
      when 'rename' then format('alter table %s rename constraint %I to %I', o.tab, o.name, v.wanted)
      when 'drop' then format('alter table %s drop constraint %I', o.tab, o.name)
      when 'refuse' then format('give the table a primary key on id alone: alter table %s drop constraint %I, add primary key (id)',
        o.tab, o.name)
      else 'the app''s own: kept'
    end,
    case when v.verdict in ('rename', 'drop') then 1 end, v.verdict = 'refuse'
  from pg_temp.upgrade_own_constraint as o
  cross join lateral (
    select w.wanted, case
      when o.contype = 'p' and w.wanted is not null then 'rename'
      when o.contype = 'p' then 'refuse'
      when o.contype = 'f' and (o.retyped is not null or o.columns @> '{batchId}') then 'drop'
      when o.contype in ('c', 'x') and (o.retyped is not null or o.columns && pg_temp.worker_columns()) then 'drop'
      else 'keep'
    end as verdict
    from (
      select (select p.name from pg_temp.upgrade_pair as p
        where p.tab = o.tab and p.kind = 'constraint' and p.found is null and p.wanted = o.found) as wanted
    ) as w
  ) as v
  order by o.tab, o.name;

  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase, blocking)
  select p.tab, format('%s, constraint %I', p.tab, p.name), 'is other: ' || p.found,
    format('alter table %s drop constraint %I%s', p.tab, p.name,
      case when p.wanted like 'PRIMARY KEY%' then ', add primary key (id)' end),
    1, p.wanted like 'PRIMARY KEY%'
  from pg_temp.upgrade_pair as p where p.kind = 'constraint' and p.found is not null and p.wanted is not null
  order by p.tab, p.name;

  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase)
  select p.tab, format('%s, constraint %I', p.tab, p.name), 'constraint is missing',
    format('add constraint %I %s', p.name, p.wanted), 3
  from pg_temp.upgrade_pair as p
  where p.kind = 'constraint' and p.wanted is not null and not exists (
    select from pg_temp.upgrade_own_constraint as o
    where o.contype = 'p' and o.tab = p.tab and o.found = p.wanted and p.wanted like 'PRIMARY KEY%')
  order by p.tab, p.name;
$$;

create or replace function pg_temp.plan_indexes() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase)
  select p.tab, format('%s, %s %I', p.tab, p.kind, p.name), coalesce(p.found, p.kind || ' is missing'), case
      when p.found is null then 'will be made'
      when p.wanted is not null and p.kind = 'index' then format('drop index %s.%I', split_part(p.tab, '.', 1), p.name)
      when p.wanted is not null then 'will be replaced'
      when r.unusable then format('drop index %s.%I', split_part(p.tab, '.', 1), p.name)
      when p.kind = 'trigger' then 'the app''s own: kept, and off during the upgrade'
      else 'the app''s own: kept'
    end,
    case when p.kind = 'index' and p.found is not null and (p.wanted is not null or r.unusable) then 1 end
  from pg_temp.upgrade_pair as p
  cross join lateral (
    -- An expression or a condition on the old type does not survive the new one; plain columns do.
    select p.kind = 'index' and exists (
      select from pg_catalog.pg_index as x
      join pg_catalog.pg_class as i on i.oid = x.indexrelid
      where x.indrelid = to_regclass(p.tab) and i.relname = p.name and (x.indexprs is not null or x.indpred is not null)
        and pg_temp.retyped_columns('pg_catalog.pg_class', i.oid) is not null) as unusable
  ) as r
  where p.kind in ('index', 'trigger')
  order by p.tab, p.kind, p.name;
$$;

-- Policies on a column whose type changes go (which only closes access); the others stay and are told,
-- because they widen what ours allow. Views, triggers and the like would be lost: they are left to a person.
create or replace function pg_temp.plan_dependents() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase)
  select t.tab, format('%s, policy %I', t.tab, y.polname),
    format('the app''s own, for %s: %s',
      case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
      coalesce(pg_catalog.pg_get_expr(y.polqual, y.polrelid), pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid))),
    case when r.retyped is null then 'kept: it adds to what the policies of the queue allow'
      else format('drop policy %I on %s', y.polname, t.tab) end,
    case when r.retyped is not null then 1 end
  from pg_temp.upgrade_actual as t
  join pg_catalog.pg_policy as y on y.polrelid = to_regclass(t.tab)
    and y.polname not in ('own batches', 'own jobs', 'own photos')
  cross join lateral pg_temp.retyped_columns('pg_catalog.pg_policy', y.oid) as r (retyped)
  where t.kind = 'table'
  order by t.tab, y.polname;

  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking)
  select c.tab, pg_catalog.pg_describe_object(d.classid, d.objid, 0),
    format('reads %s, whose type changes%s', string_agg(distinct c.name, ', '),
      coalesce(': ' || max(pg_catalog.pg_get_viewdef(w.ev_class, true)), '')),
    'drop it, upgrade, then make it again', true
  from pg_temp.upgrade_retype as c
  join pg_catalog.pg_attribute as a on a.attrelid = to_regclass(c.tab) and a.attname = c.name
  join pg_catalog.pg_depend as d
    on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
  left join pg_catalog.pg_rewrite as w on d.classid = 'pg_catalog.pg_rewrite'::regclass and w.oid = d.objid
  where d.classid = any (array['pg_catalog.pg_rewrite', 'pg_catalog.pg_proc', 'pg_catalog.pg_publication_rel']::regclass[])
    or d.classid = 'pg_catalog.pg_trigger'::regclass and exists (
      select from pg_catalog.pg_trigger as g where g.oid = d.objid and not g.tgisinternal)
    or d.classid = 'pg_catalog.pg_attrdef'::regclass and d.deptype = 'n' and not exists (
      select from pg_catalog.pg_attrdef as f where f.oid = d.objid and f.adrelid = a.attrelid and f.adnum = a.attnum)
  group by c.tab, d.classid, d.objid
  order by c.tab, 2;

  insert into pg_temp.upgrade_finding (tab, object, difference, action)
  select t.tab, format('%s, constraint %I', k.conrelid::regclass, k.conname), pg_catalog.pg_get_constraintdef(k.oid),
    'the app''s own: kept'
  from pg_temp.upgrade_actual as t
  join pg_catalog.pg_constraint as k on k.contype = 'f' and k.confrelid = to_regclass(t.tab)
  where t.kind = 'table' and k.conparentid = 0 and not exists (
    select from pg_temp.upgrade_target as g where (g.kind, g.name) = ('constraint', k.conname))
  order by 2;
$$;
