-- Moves the queue of the older worker (Deno) into this project's tables. docs/migrate.md has the order of a whole cut-over.
--
-- As it stands it changes nothing: it reports what it finds, what becomes of it, and what it cannot map. To migrate, delete the
-- two dashes of the line below `begin`, and run with psql or in the SQL editor:
--
--   1. this file     renames the old table to photo_generation_queue_old; a view of the old name takes the app's orders
--   2. install.sql   puts the new table in the place of the view
--   3. this file     copies the jobs that have not been copied
--
-- Each is one transaction. The old table is renamed, and otherwise only read. Safe to run again.

begin;
-- set local generation.migrate = 'apply';

set local search_path = '';
set local timezone = 'UTC';  -- timestamps without a zone are taken as UTC
set local row_security = off;  -- an error in place of rows that a policy hides
set local statement_timeout = 0;
set local lock_timeout = '10s';
set local client_min_messages = warning;

create temporary table report (
  seq integer generated always as identity, what text, found text, becomes text, blocking boolean not null default false
) on commit drop;

-- The old table, and what is next: to rename it, to run install.sql, to copy its rows, or nothing.
create temporary table migration on commit drop as
with found as (
  select t.renamed, case when c.relkind <> 'v' and a.attnum is null then c.oid::regclass end as old_table, a.attnum is not null as installed
  from (
    select to_regclass('public.photo_generation_queue') as queue, to_regclass('public.photo_generation_queue_old') as renamed
  ) as t
  left join pg_catalog.pg_class as c on c.oid = t.queue
  left join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attname = 'startTag'
)
select coalesce(nullif(current_setting('generation.migrate', true), ''), 'report') as mode, coalesce(f.old_table, f.renamed) as old_table,
  case
    when f.old_table is not null then 'rename' when f.renamed is null then 'nothing' when f.installed then 'copy' else 'install'
  end as step
from found as f;

create temporary table old_row on commit drop as select null::jsonb as j where false;
do $$
declare
  v_old record;
begin
  select * into v_old from pg_temp.migration;
  if v_old.mode not in ('report', 'apply') then
    raise exception 'generation.migrate is %', v_old.mode using hint = 'Set it to apply, or leave it out for the report.';
  elsif v_old.old_table is not null and v_old.mode = 'apply' then
    execute format('lock table %s in access exclusive mode', v_old.old_table);
  end if;
  if v_old.old_table is not null then
    execute format('insert into pg_temp.old_row select to_jsonb(o) from %s as o', v_old.old_table);
  end if;
  if to_regclass('public.photo_generation_queue_old_ids') is not null then
    delete from pg_temp.old_row as r using public.photo_generation_queue_old_ids as i where i."oldId" = r.j ->> 'id';
  end if;
end
$$;

-- How old values are read; null if they cannot be.
create or replace function pg_temp.as_time(p_value text) returns timestamptz
language plpgsql stable as $$
begin
  return nullif(btrim(p_value), '')::timestamptz;
exception
  when others then return null;
end
$$;

create or replace function pg_temp.as_integer(p_value text, p_default integer) returns integer
language sql immutable as $$
  select case when p_value is null then p_default when p_value ~ '^\s*[+-]?\d{1,9}(\.0*)?\s*$' then p_value::numeric::integer end
$$;

-- An array of PostgreSQL or JSON, or a text: one of those, addresses with commas between them, or one entry.
create or replace function pg_temp.as_list(p_value jsonb) returns jsonb
language plpgsql stable as $$
declare
  v_text constant text := case jsonb_typeof(p_value) when 'string' then btrim(p_value #>> '{}') end;
begin
  return case
    when coalesce(p_value, 'null') = 'null' or v_text = '' then '[]'
    when v_text ~ '^\[' then v_text::jsonb
    when v_text ~ '^\{' then to_jsonb(v_text::text[])
    when v_text ~ ',\s*https?://' then to_jsonb(regexp_split_to_array(v_text, '\s*,\s*(?=https?://)'))
    when v_text is not null then jsonb_build_array(v_text)
    when jsonb_typeof(p_value) = 'array' then p_value
  end;
exception
  when others then return null;
end
$$;

create temporary table old_job on commit drop as
select n.*, n.status in ('pending', 'processing', 'rate_limited') as open, null::bigint as id,
  count(*) over (partition by n.old_id) as same_id, min(n.user_id) over batch <> max(n.user_id) over batch as shared
from (
  select r.j, r.j ->> 'id' as old_id, btrim(r.j ->> 'userId') as user_id,
    coalesce(nullif(btrim(r.j ->> 'batchId'), ''), gen_random_uuid()::text) as batch_id,
    lower(regexp_replace(regexp_replace(btrim(r.j ->> 'status'), '([a-z])([A-Z])', '\1_\2', 'g'), '[ -]+', '_', 'g')) as status,
    pg_temp.as_integer(r.j ->> 'priority', 0) as priority, pg_temp.as_integer(r.j ->> 'numImagesPerExample', 4) as images,
    pg_temp.as_list(r.j -> 'trainingImageUrls') as photos, pg_temp.as_list(r.j -> 'backgrounds') as backgrounds,
    pg_temp.as_list(r.j -> 'styles') as styles,
    pg_temp.as_time(r.j ->> 'retryAt') as retry_at,
    coalesce(pg_temp.as_time(r.j ->> 'createdAt'), pg_temp.as_time(r.j ->> 'updatedAt'), now()) as created_at,
    coalesce(pg_temp.as_time(r.j ->> 'completedAt'), pg_temp.as_time(r.j ->> 'updatedAt'), pg_temp.as_time(r.j ->> 'createdAt'), now())
      as ended_at
  from pg_temp.old_row as r
) as n
window batch as (partition by n.batch_id);

-- What cannot be mapped: what hangs on the table, a bucket, rows.
insert into pg_temp.report (what, found, becomes, blocking)
select 'foreign key of ' || k.conrelid::regclass, pg_catalog.pg_get_constraintdef(k.oid),
  format('drop constraint %I, and add it again when all is done', k.conname), true
from pg_temp.migration as m
inner join pg_catalog.pg_constraint as k on k.contype = 'f' and k.confrelid = m.old_table
where m.step = 'rename'
union all
select distinct 'view ' || w.ev_class::regclass, pg_catalog.pg_get_viewdef(w.ev_class, true),
  'drop it, and make it again when all is done', true
from pg_temp.migration as m
inner join pg_catalog.pg_depend as d on d.refobjid = m.old_table and d.classid = 'pg_catalog.pg_rewrite'::regclass
inner join pg_catalog.pg_rewrite as w on w.oid = d.objid
where m.step = 'rename';

do $$
begin
  if to_regclass('storage.buckets') is not null and exists (select from pg_temp.migration as m where m.step = 'rename') then
    insert into pg_temp.report (what, found, becomes, blocking)
    select 'bucket generated-photos', 'is public or holds objects of the app, and would become the worker''s, private',
      'move the objects to another bucket and remove this one', true
    from storage.buckets as b
    where b.id = 'generated-photos' and (b.public or exists (select from storage.objects as o where o.bucket_id = b.id));
  end if;
end
$$;

insert into pg_temp.report (what, found, becomes, blocking)
select 'rows', format('%s: %s (id %s)', count(*), p.found, array_to_string((array_agg(o.old_id))[1:5], ', ')), p.becomes, true
from pg_temp.old_job as o
cross join lateral (values
  (coalesce(o.status not in ('pending', 'processing', 'rate_limited', 'completed', 'failed', 'cancelled'), true),
    format('unknown status %s', coalesce(o.j ->> 'status', 'null')), 'set one of those in docs/migrate.md'),
  (o.old_id is null or o.same_id > 1, 'no id of their own', 'set an id'),
  (coalesce(o.user_id, '') = '', 'no user', 'set "userId"'),
  (o.open and coalesce(o.j ->> 'exampleImageUrl', '') = '', 'not ended, without an "exampleImageUrl"', 'set it'),
  (o.open and (o.user_id !~ '^[A-Za-z0-9_.@:;+,=|-]{0,200}$' or o.batch_id !~ '^[A-Za-z0-9_.@:;+,=-]{1,200}$'),
    'not ended, with a "userId" or "batchId" that cannot name a folder', 'use at most 200 letters, digits and _ . @ : ; + , = -'),
  (o.shared, 'a batch with jobs of several users', 'give the jobs of each user a "batchId" of their own'),
  (coalesce(o.images not between 1 and 100, true), '"numImagesPerExample" is not 1 to 100', 'set it, or null for 4'),
  (coalesce(o.priority not between -32768 and 32767, true), 'priority is not -32768 to 32767', 'set it, or null for 0'),
  (num_nulls(o.photos, o.backgrounds, o.styles) > 0, 'a list that cannot be read', 'use a JSON array'),
  (exists (
    select from jsonb_each_text(o.j) as field
    where field.key in ('createdAt', 'startedAt', 'retryAt', 'completedAt') and field.value <> '' and pg_temp.as_time(field.value) is null),
    'a time that cannot be read', 'write it like 2026-01-31 12:00:00'),
  (o.status = 'processing' and coalesce(pg_temp.as_time(o.j ->> 'lockedAt') > now() - interval '5 minutes', true),
    'processing, locked within five minutes or nobody knows when', 'switch the old worker off and wait, or set them to pending')
) as p (applies, found, becomes)
where p.applies
group by p.found, p.becomes;

-- What is done: the rows by status, and what the app has added to the table.
insert into pg_temp.report (what, found, becomes)
select 'rows', format('%s: %s', count(*), o.j ->> 'status'),
  case o.status when 'processing' then 'pending, to be made again' when 'completed' then 'completed, with all its images' else o.status end
from pg_temp.old_job as o
group by o.j ->> 'status', o.status;

create temporary table own_column on commit drop as
select a.attname as name, format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod))
    || coalesce(' default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') as definition
from pg_temp.migration as m
inner join pg_catalog.pg_attribute as a on a.attrelid = m.old_table and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum and a.attgenerated = ''
where a.attname not in ('id', 'batchId', 'userId', 'exampleImageId', 'exampleImageUrl', 'exampleImagePrompt', 'trainingImageUrls',
  'basePrompt', 'aspectRatio', 'numImagesPerExample', 'glasses', 'hairColor', 'hairStyle', 'backgrounds', 'styles', 'status', 'priority',
  'startTag', 'attempts', 'maxAttempts', 'crashes', 'suspect', 'claims', 'retryAt', 'waitingSince', 'lockedBy', 'lockedAt',
  'leaseExpiresAt', 'errorCode', 'errorMessage', 'createdAt', 'startedAt', 'completedAt', 'sweptAt', 'sweepUntil');

insert into pg_temp.report (what, found, becomes)
select 'column of the app', c.definition, 'the new table gets it as well' from pg_temp.own_column as c
union all
select 'trigger of the app', pg_catalog.pg_get_triggerdef(t.oid), 'stays with the old table, as constraints, indexes and policies do'
from pg_temp.migration as m
inner join pg_catalog.pg_trigger as t on t.tgrelid = m.old_table and not t.tgisinternal;

-- Renames the old table, with the indexes and sequences whose names the new one needs.
create or replace function pg_temp.rename_old_queue(p_table regclass) returns void
language plpgsql as $$
declare
  v_name name;
begin
  alter table public.photo_generation_queue rename to photo_generation_queue_old;
  for v_name in
    select c.relname from pg_catalog.pg_class as c
    where c.relkind in ('i', 'S') and c.relnamespace = 'public'::regnamespace and starts_with(c.relname, 'photo_generation_queue_')
      and (exists (select from pg_catalog.pg_index as i where i.indexrelid = c.oid and i.indrelid = p_table)
        or exists (select from pg_catalog.pg_depend as d where d.objid = c.oid and d.refobjid = p_table))
  loop
    execute format('alter table public.%I rename to %I', v_name, replace(v_name, 'photo_generation_queue_', 'photo_generation_queue_old_'));
  end loop;
  create view public.photo_generation_queue with (security_invoker = true) as select * from public.photo_generation_queue_old;
  grant all on public.photo_generation_queue to anon, authenticated, service_role;  -- the rights on the old table decide
end
$$;

-- Copies the jobs and makes their batches. Ids that are numbers stay; any other gets a number, and photo_generation_queue_old_ids
-- has both. Unfinished jobs stand in the fair order by age, each user in turn.
create or replace function pg_temp.copy_old_jobs() returns void
language plpgsql as $$
declare
  v_column record;
  v_names text := '';
  v_values text := '';
begin
  update pg_temp.old_job as o
  set id = case
    when o.old_id ~ '^(0|[1-9]\d{0,17})$'
      and not exists (select from public.photo_generation_queue as q where q.id = o.old_id::bigint) then o.old_id::bigint
    else nextval(pg_catalog.pg_get_serial_sequence('public.photo_generation_queue', 'id'))
  end;

  create table if not exists public.photo_generation_queue_old_ids ("oldId" text primary key, "newId" bigint not null unique);
  alter table public.photo_generation_queue_old_ids enable row level security;
  revoke all on public.photo_generation_queue_old_ids from public, anon, authenticated;
  insert into public.photo_generation_queue_old_ids ("oldId", "newId") select o.old_id, o.id from pg_temp.old_job as o;

  insert into public.photo_generation_batches (id, "userId", "createdAt")
  select o.batch_id, min(o.user_id), min(o.created_at) from pg_temp.old_job as o group by o.batch_id
  on conflict (id) do nothing;

  for v_column in select c.name, c.definition from pg_temp.own_column as c order by c.name loop
    execute format('alter table public.photo_generation_queue add column if not exists %s', v_column.definition);
    v_names := v_names || format(', %I', v_column.name);
    v_values := v_values || format(', x.%I', v_column.name);
  end loop;
  execute format($sql$
    insert into public.photo_generation_queue (id, "batchId", "userId", "exampleImageId", "exampleImageUrl", "exampleImagePrompt",
      "trainingImageUrls", "basePrompt", "aspectRatio", "numImagesPerExample", glasses, "hairColor", "hairStyle", backgrounds, styles,
      status, priority, "startTag", attempts, "maxAttempts", "retryAt", "errorCode", "errorMessage", "createdAt", "startedAt",
      "completedAt"%s)
    select o.id, o.batch_id, o.user_id, o.j ->> 'exampleImageId', coalesce(o.j ->> 'exampleImageUrl', ''), o.j ->> 'exampleImagePrompt',
      o.photos, coalesce(o.j ->> 'basePrompt', ''), coalesce(o.j ->> 'aspectRatio', '1:1'), o.images, o.j ->> 'glasses',
      o.j ->> 'hairColor', o.j ->> 'hairStyle', o.backgrounds, o.styles,
      case o.status when 'processing' then 'pending' else o.status end, o.priority,
      case when o.open then coalesce(f."lastTag", 0) + sum(o.images) over (
        partition by o.user_id, o.priority, o.open order by o.created_at, o.id) else 0 end,
      greatest(pg_temp.as_integer(o.j ->> 'attempts', 0), 0), greatest(pg_temp.as_integer(o.j ->> 'maxAttempts', 5), 1),
      case o.status when 'rate_limited' then coalesce(o.retry_at, now()) when 'pending' then o.retry_at end, o.j ->> 'errorCode',
      coalesce(nullif(btrim(o.j ->> 'errorMessage'), ''),
        case o.status when 'failed' then 'Failed before the migration; the reason was not recorded.' end),
      o.created_at, pg_temp.as_time(o.j ->> 'startedAt'), case when not o.open then o.ended_at end%s
    from pg_temp.old_job as o
    inner join public.photo_generation_queue_old as x on x.id::text = o.old_id
    left join generation.flows as f on f."userId" = o.user_id and f.priority = o.priority$sql$, v_names, v_values);

  insert into generation.flows as f ("userId", priority, "lastTag")
  select q."userId", q.priority, max(q."startTag")
  from public.photo_generation_queue as q
  where q.id in (select o.id from pg_temp.old_job as o where o.open)
  group by q."userId", q.priority
  on conflict ("userId", priority) do update set "lastTag" = greatest(f."lastTag", excluded."lastTag");

  update public.photo_generation_batches as b
  set "jobsTotal" = c.jobs, "jobsDone" = c.done, "jobsFailed" = c.failed, "imagesTotal" = c.images, "imagesDone" = c.images_done,
    "imagesFailed" = c.images_failed, "completedAt" = case when c.done + c.failed = c.jobs then c.ended_at end,
    status = case
      when c.done + c.failed < c.jobs then 'generating' when c.cancelled then 'cancelled'
      when c.failed = 0 then 'completed' when c.done > 0 then 'partial' else 'failed'
    end
  from (
    select q."batchId" as id, count(*) as jobs, sum(q."numImagesPerExample") as images, max(q."completedAt") as ended_at,
      bool_or(q.status = 'cancelled') as cancelled, count(*) filter (where s.done) as done, count(*) filter (where s.failed) as failed,
      coalesce(sum(q."numImagesPerExample") filter (where s.done), 0) as images_done,
      coalesce(sum(q."numImagesPerExample") filter (where s.failed), 0) as images_failed
    from public.photo_generation_queue as q
    cross join lateral (select q.status = 'completed' as done, q.status in ('failed', 'cancelled') as failed) as s
    where q."batchId" in (select o.batch_id from pg_temp.old_job as o)
    group by q."batchId"
  ) as c
  where b.id = c.id;
  analyze public.photo_generation_queue, public.photo_generation_batches;
end
$$;

do $$
declare
  v_old record;
  v_blocking text;
begin
  select * into v_old from pg_temp.migration;
  select string_agg(format('%s: %s. Do: %s', r.what, r.found, r.becomes), E'\n' order by r.seq) into v_blocking
  from pg_temp.report as r where r.blocking;
  if v_old.mode = 'report' or v_old.step in ('nothing', 'install') then
    null;
  elsif v_blocking is not null then
    raise exception using errcode = 'object_not_in_prerequisite_state', message = 'Not migrated; nothing was changed.',
      detail = v_blocking, hint = 'Do what is named and run this again.';
  elsif v_old.step = 'rename' then
    perform pg_temp.rename_old_queue(v_old.old_table);
  else
    perform pg_temp.copy_old_jobs();
  end if;
end
$$;

notify pgrst, 'reload schema';

select r.what, r.found, r.becomes, case when r.blocking then 'yes' else 'no' end as blocking
from (
  select r.* from pg_temp.report as r
  union all
  select 0, 'next', case m.mode when 'apply' then 'done: ' || m.step else m.step end, case m.step
      when 'nothing' then 'there is no table of the older worker'
      when 'copy' then 'photo_generation_queue_old_ids has the old and the new id of each job'
      else 'run install.sql, then this file again'
    end, false
  from pg_temp.migration as m
) as r
order by r.blocking desc, r.seq asc;

commit;
