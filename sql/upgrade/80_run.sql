-- The plan as a whole, and its execution.

-- Whether the queue is ours and of an older schema version: install.sql brings that up to date, with what it holds.
create or replace function pg_temp.installed_version() returns integer
language plpgsql stable as $$
declare
  v_version integer;
begin
  if pg_temp.is_ours() and to_regprocedure('public.generation_schema_version()') is not null then
    select substring(p.prosrc from '''version'', (\d+)')::integer into v_version
    from pg_catalog.pg_proc as p where p.oid = to_regprocedure('public.generation_schema_version()');
  end if;
  return v_version;
end
$$;

create or replace function pg_temp.plan_version() returns void
language sql as $$
  insert into pg_temp.upgrade_finding (object, difference, action, blocking)
  select 'schema', format('is the queue''s own, of version %s, not %s', pg_temp.installed_version(), w.version),
    'run sql/install.sql instead, which keeps all that is there', true
  from (
    select substring(t.definition from '''version'', (\d+)')::integer as version
    from pg_temp.upgrade_target as t where t.kind = 'function' and t.name = 'generation_schema_version()'
  ) as w
  where pg_temp.installed_version() < w.version
$$;

create or replace function pg_temp.plan() returns void
language sql as $$
  truncate pg_temp.upgrade_finding;
  select pg_temp.read_actual();
  select pg_temp.plan_version();
  select pg_temp.plan_collisions();
  select pg_temp.plan_bucket();
  select pg_temp.plan_tables();
  select pg_temp.plan_missing_columns();
  select pg_temp.plan_types();
  select pg_temp.plan_defaults();
  select pg_temp.plan_required();
  select pg_temp.plan_constraints();
  select pg_temp.plan_indexes();
  select pg_temp.plan_dependents();
  select pg_temp.plan_functions();
  select pg_temp.plan_rows();
  select pg_temp.plan_batches();
$$;

-- Refuses with the rows of the plan that forbid the upgrade, all of them in `detail`.
create or replace function pg_temp.refuse_if_blocked() returns void
language plpgsql as $$
declare
  v_blocking text;
begin
  select string_agg(format('%s: %s. Mend: %s', f.object, f.difference, f.action), E'\n' order by f.seq) into v_blocking
  from pg_temp.upgrade_finding as f where f.blocking;
  if v_blocking is not null then
    raise exception using errcode = 'object_not_in_prerequisite_state', message = 'Not upgraded; nothing was changed.',
      detail = v_blocking, hint = 'Mend these and run this again.';
  end if;
end
$$;

create or replace function pg_temp.run_phase(p_phase integer) returns void
language plpgsql as $$
declare
  v_statement text;
begin
  for v_statement in
    select f.action from pg_temp.upgrade_finding as f where f.phase = p_phase and p_phase = 1 order by f.seq
  loop
    execute v_statement;
  end loop;
  -- All changes of a table in one statement: it is rewritten once.
  for v_statement in
    select format('alter table %s %s', f.tab, string_agg(f.action, ', ' order by f.seq))
    from pg_temp.upgrade_finding as f where f.phase = p_phase and p_phase <> 1 group by f.tab order by f.tab
  loop
    execute v_statement;
  end loop;
end
$$;

-- The app's own triggers are off while rows are mended: nobody ordered or finished anything.
create or replace function pg_temp.triggers_off() returns void
language plpgsql as $$
declare
  v_trigger record;
begin
  insert into pg_temp.upgrade_trigger
  select g.tgname, g.tgenabled from pg_catalog.pg_trigger as g
  where g.tgrelid = to_regclass('public.photo_generation_queue') and not g.tgisinternal and g.tgenabled <> 'D'
    and not exists (select from pg_temp.upgrade_target as t where (t.kind, t.name) = ('trigger', g.tgname::text));
  for v_trigger in select * from pg_temp.upgrade_trigger loop
    execute format('alter table public.photo_generation_queue disable trigger %I', v_trigger.tgname);
  end loop;
end
$$;

create or replace function pg_temp.triggers_on() returns void
language plpgsql as $$
declare
  v_trigger record;
begin
  for v_trigger in select * from pg_temp.upgrade_trigger loop
    execute format('alter table public.photo_generation_queue enable %s trigger %I',
      case v_trigger.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, v_trigger.tgname);
  end loop;
end
$$;

create or replace function pg_temp.install() returns void
language plpgsql as $$
declare
  v_body text;
begin
  for v_body in select p.body from pg_temp.upgrade_part as p order by p.name loop
    execute v_body;
  end loop;
end
$$;

-- Whether a finding is more than a note on something of the app's own.
create or replace function pg_temp.is_open(p_finding pg_temp.upgrade_finding) returns boolean
language sql immutable as $$
  select p_finding.blocking or p_finding.phase is not null or p_finding.action not like '%kept%'
$$;

-- Nothing may be left to do: if something is, everything is rolled back.
create or replace function pg_temp.check_result() returns void
language plpgsql as $$
declare
  v_left text;
begin
  perform pg_temp.plan();
  select string_agg(format('%s: %s', f.object, f.difference), E'\n' order by f.seq) into v_left
  from pg_temp.upgrade_finding as f where pg_temp.is_open(f);
  if v_left is not null then
    raise exception using message = 'Not upgraded; nothing was changed: the result would still differ.', detail = v_left;
  end if;
end
$$;

create or replace function pg_temp.upgrade() returns void
language plpgsql as $$
begin
  if to_regclass('public.photo_generation_queue') is not null then
    lock table public.photo_generation_queue in access exclusive mode;
  end if;
  perform pg_temp.plan();
  perform pg_temp.refuse_if_blocked();
  set constraints all immediate;
  perform pg_temp.triggers_off();
  perform pg_temp.run_phase(1);
  perform pg_temp.run_phase(2);
  perform pg_temp.install();
  perform pg_temp.mend_rows();
  perform pg_temp.fill_order();
  perform pg_temp.fill_batches();
  perform pg_temp.mend_id();
  perform pg_temp.run_phase(3);
  perform pg_temp.triggers_on();
  perform pg_temp.check_result();
  analyze public.photo_generation_queue, public.photo_generation_batches;
  notify pgrst, 'reload schema';
end
$$;

do $$
declare
  v_mode text := coalesce(nullif(current_setting('generation.upgrade', true), ''), 'report');
begin
  perform pg_temp.read_target();
  case v_mode
    when 'report' then perform pg_temp.plan();
    when 'apply', 'apply_despite_locks' then perform pg_temp.upgrade();
    else raise exception using message = format('generation.upgrade is %s', v_mode),
      hint = 'Set it to apply, or leave it out for the report.';
  end case;
end
$$;

select f.object, f.difference, f.action, case when f.blocking then 'yes' else 'no' end as blocking
from (
  select f.seq, f.object, f.difference, f.action, f.blocking from pg_temp.upgrade_finding as f
  union all
  select 0 as seq, 'schema' as object, 'no difference' as difference, 'nothing to do' as action, false as blocking
  where not exists (select from pg_temp.upgrade_finding as f where pg_temp.is_open(f))
) as f
order by f.blocking desc, f.seq asc;

commit;
