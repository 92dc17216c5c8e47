-- The plan for tables, columns, types, defaults and whether a value is required.

-- Columns the worker writes: what the app had in their place (defaults, checks) would get into its way.
create or replace function pg_temp.worker_columns() returns text[]
language sql immutable as $$
  select array['id', 'startTag', 'status', 'attempts', 'crashes', 'suspect', 'claims', 'retryAt', 'lockedBy', 'lockedAt',
    'leaseExpiresAt', 'errorCode', 'errorMessage', 'startedAt', 'completedAt', 'sweptAt', 'sweepUntil', 'waitingSince',
    'createdAt']
$$;

-- The target's columns beside the actual ones, of tables that exist.
create or replace view pg_temp.upgrade_column as
  select t.tab, t.name, t.definition as to_type, a.definition as from_type,
    td.definition as to_default, ad.definition as from_default,
    tr.name is not null as to_required, ar.name is not null as from_required
  from pg_temp.upgrade_target as t
  inner join pg_temp.upgrade_actual as tab on tab.kind = 'table' and tab.tab = t.tab
  left join pg_temp.upgrade_actual as a on (a.kind, a.tab, a.name) = ('column', t.tab, t.name)
  left join pg_temp.upgrade_target as tr on (tr.kind, tr.tab, tr.name) = ('required', t.tab, t.name)
  left join pg_temp.upgrade_actual as ar on (ar.kind, ar.tab, ar.name) = ('required', t.tab, t.name)
  left join pg_temp.upgrade_target as td on (td.kind, td.tab, td.name) = ('default', t.tab, t.name)
  left join pg_temp.upgrade_actual as ad on (ad.kind, ad.tab, ad.name) = ('default', t.tab, t.name)
  where t.kind = 'column';

create or replace function pg_temp.plan_tables() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking)
  select t.tab, t.tab, case when a.tab is null then 'missing' else 'is not a plain table: ' || a.definition end,
    case when a.tab is null then 'will be made' else 'rename or drop it' end, a.tab is not null
  from pg_temp.upgrade_target as t
  left join pg_temp.upgrade_actual as a on (a.kind, a.tab) = ('table', t.tab)
  where t.kind = 'table' and a.definition is distinct from 'table'
  order by t.tab;
$$;

create or replace function pg_temp.plan_missing_columns() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking, phase)
  select c.tab, format('%s.%I', c.tab, c.name), 'column is missing',
    case when b.blocking
        then format('add it and say what it holds in the old rows: alter table %1$s add column %2$I %3$s; update %1$s set %2$I = …',
          c.tab, c.name, c.to_type)
      else format('add column %I %s', c.name, c.to_type) || case
        when c.name = 'startTag' then ' default 0'
        when c.to_default like 'generated%' then ' ' || c.to_default
        else coalesce(' default ' || c.to_default || case when c.to_required then ' not null' else '' end, '')
      end
    end,
    b.blocking, 2
  from pg_temp.upgrade_column as c
  cross join lateral (
    select c.to_required and c.to_default is null and c.name not in ('startTag', 'batchId')
      and pg_temp.has_rows(c.tab) as blocking
  ) as b
  where c.from_type is null
  order by c.tab, c.name;

  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase)
  select c.tab, format('%s.%I', c.tab, c.name), 'has no value yet', a.action, 3
  from pg_temp.upgrade_column as c
  cross join lateral (
    select format('alter column %I set not null', c.name) as action
    union all
    select 'alter column "startTag" drop default' where c.name = 'startTag'
  ) as a
  where c.from_type is null and c.to_required and c.to_default is null
  order by c.tab, c.name;
$$;

-- The columns whose type changes, and how.
create or replace view pg_temp.upgrade_retype as
  select c.tab, c.name, c.from_type, c.to_type, v.expression, v.checked
  from pg_temp.upgrade_column as c
  cross join lateral pg_temp.conversion(c.name, c.from_type, c.to_type) as v
  where c.from_type <> c.to_type;

create or replace function pg_temp.plan_types() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking, phase)
  select c.tab, format('%s.%I', c.tab, c.name), format('is %s, not %s', c.from_type, c.to_type), case
      when c.expression is not null then format('alter column %I type %s using %s', c.name, c.to_type, c.expression)
      when c.name = 'id' then 'cannot become bigint: keep this table under another name and install afresh '
        || '(sql/README.md, "Ids that are not numbers")'
      else format('cannot be turned into %s: change it by hand, or rename the column and it is made anew', c.to_type)
    end,
    c.expression is null, 2
  from pg_temp.upgrade_retype as c
  order by c.tab, c.name;

  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking)
  select c.tab, format('%s.%I', c.tab, c.name), format('%s values are no %s, such as: %s', u.cells, c.to_type, u.sample),
    'mend them by hand', true
  from pg_temp.upgrade_retype as c
  cross join lateral pg_temp.unreadable(c.tab, c.name, c.to_type) as u
  where c.expression is not null and c.checked and u.cells > 0
  order by c.tab, c.name;
$$;

create or replace function pg_temp.plan_defaults() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking, phase)
  select c.tab, format('%s.%I', c.tab, c.name), coalesce('default is ' || c.from_default, 'has no default'),
    a.action, a.blocking, a.phase
  from pg_temp.upgrade_column as c
  cross join lateral (
    select 'make it an ordinary column' as action, true as blocking, null::integer as phase
    where c.from_default = 'generated column' or c.from_default like 'generated%identity' and c.name <> 'id'
    union all
    select 'generated by default as identity, going on after the highest id', false, null where c.name = 'id'
    union all
    select format('alter column %I drop default', c.name), false, 2
    where c.name <> 'id' and c.from_default is not null and c.from_default not like 'generated %'
      and (c.from_type <> c.to_type or c.name = any (pg_temp.worker_columns()))
    union all
    select format('alter column %I set default %s', c.name, c.to_default), false, 3
    where c.name <> 'id' and c.to_default is not null
    union all
    select 'the app''s own: kept', false, null
    where c.to_default is null and c.from_type = c.to_type and c.from_default not like 'generated %'
      and c.name <> all (pg_temp.worker_columns())
  ) as a
  where c.from_type is not null and c.from_default is distinct from c.to_default
  order by c.tab, c.name, a.phase;
$$;

create or replace function pg_temp.plan_required() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (tab, object, difference, action, phase)
  select c.tab, format('%s.%I', c.tab, c.name), case when c.to_required then 'may be null' else 'must not be null' end,
    format('alter column %I %s not null', c.name, case when c.to_required then 'set' else 'drop' end),
    case when c.to_required then 3 else 2 end
  from pg_temp.upgrade_column as c
  where c.from_type is not null and c.from_required <> c.to_required
  order by c.tab, c.name;

  insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking)
  select a.tab, format('%s.%I', a.tab, a.name), format('the app''s own column (%s)', a.definition)
      || case when b.blocking then ', required and without a default: new orders could not be written' else '' end,
    case when b.blocking then format('alter table %s alter column %I set default …, or drop not null', a.tab, a.name)
      else 'kept' end,
    b.blocking
  from pg_temp.upgrade_actual as a
  cross join lateral (
    select count(*) filter (where p.kind = 'required') > 0 and count(*) filter (where p.kind = 'default') = 0 as blocking
    from pg_temp.upgrade_actual as p where p.tab = a.tab and p.name = a.name
  ) as b
  where a.kind = 'column'
    and not exists (select from pg_temp.upgrade_target as t where (t.kind, t.tab, t.name) = ('column', a.tab, a.name))
  order by a.tab, a.name;
$$;
