-- Counters of what ended within the last day, by minute, ten minutes and hour. generation.counts is a cache: what is not in it is counted
-- from the tables, and emptying it changes no number. Workers never wait for a counter: whoever asks for the numbers counts the minutes
-- that are over (roll_counts), one caller at a time, and flow_stats counts what is left.
--
-- A counted minute misses no row:
-- * A row that is changed or removed marks its minute in the same transaction, and so does a row whose time is more than ten seconds past
--   when it is written (the triggers below). flow_stats counts marked minutes from the tables, and roll_counts counts them again.
-- * Any other row is written within ten seconds of its time. Ten seconds after the end of a minute, roll_counts notes its own
--   transaction id; whoever wrote such a row has a lower one. The minute is counted when all transactions with lower ids have ended.

-- What ended in each of the spans from p_since until before p_until, counted from the tables: the place of the span in the arrays, and a
-- row of generation.counts. Times taken are rounded to one percent: to steps that are two percent at most, 1 below 100, then 2, from
-- 200 on 4, from 500 on 10, and so on.
create or replace function generation.count_ended(p_since timestamptz[], p_until timestamptz[])
returns table (place bigint, counts generation.counts)
language plpgsql stable rows 10 set search_path = '' set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_bounds constant integer[] := array[100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000,
    2000000, 5000000];
  v_steps constant integer[] := '{1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000, 4000, 10000, 20000, 40000, 100000}';
begin
  return query
  with recursive spans as materialized (
    select s.place, s.since, s.until from unnest(p_since, p_until) with ordinality as s (since, until, place)
  ), ended as materialized (
    select j.place, j.status, j.code, (j.tenths + j.step / 2) / j.step * j.step as took, count(*)::integer as n,
      sum(j.ms) as total, max(j.ms) as most
    from (
      select s.place, q.status, case when q.status = 'failed' then coalesce(q."errorCode", 'unknown') end as code, t.tenths,
        round(date_part('epoch', q."completedAt" - q."createdAt") * 1000)::bigint as ms,
        v_steps[1 + width_bucket(t.tenths, v_bounds)] as step
      from spans as s
      cross join lateral (
        select e.* from public.photo_generation_queue as e where e."completedAt" >= s.since and e."completedAt" < s.until offset 0
      ) as q
      cross join lateral (
        select least(round(date_part('epoch', q."completedAt" - q."createdAt") * 10), 2000000000)::integer as tenths
      ) as t
    ) as j
    group by 1, 2, 3, 4
  ), jobs as (
    select e.place, sum(e.n) filter (where e.status = 'completed') as completed, sum(e.n) filter (where e.status = 'failed') as failed,
      sum(e.n) filter (where e.status = 'cancelled') as cancelled, sum(e.total) filter (where e.status = 'completed') as ms,
      max(e.most) filter (where e.status = 'completed') as most,
      array_agg(e.took order by e.took) filter (where e.status = 'completed') as times,
      array_agg(e.n order by e.took) filter (where e.status = 'completed') as time_counts
    from ended as e group by e.place
  ), failures as (
    select f.place, jsonb_object_agg(f.code, f.n) as codes
    from (select e.place, e.code, sum(e.n) as n from ended as e where e.status = 'failed' group by e.place, e.code) as f
    group by f.place
  ), models as (
    (select p.model from public.photo_generation_photos as p order by p.model limit 1)
    union all
    select (select p.model from public.photo_generation_photos as p where p.model > m.model order by p.model limit 1)
    from models as m where m.model is not null
  ), made as (
    select p.place, (p.ms + p.step / 2) / p.step * p.step as took, count(*)::integer as n, sum(p.ms) as total, max(p.ms) as most
    from (
      select s.place, i."generationMs" as ms, v_steps[1 + width_bucket(i."generationMs", v_bounds)] as step
      from spans as s cross join models as m
      cross join lateral (
        select l."generationMs" from public.photo_generation_photos as l
        where l.model = m.model and l."createdAt" >= s.since and l."createdAt" < s.until offset 0
      ) as i
    ) as p
    group by 1, 2
  ), images as (
    select m.place, sum(m.n) as made, sum(m.n) filter (where m.took is not null) as timed, sum(m.total) as ms, max(m.most) as most,
      array_agg(m.took order by m.took) filter (where m.took is not null) as times,
      array_agg(m.n order by m.took) filter (where m.took is not null) as time_counts
    from made as m group by m.place
  ), refusals as (
    select r.place, sum(r.n) as n, jsonb_object_agg(r.code, r.n) as codes
    from (
      select s.place, f.code, count(*) as n
      from spans as s cross join lateral (
        select i.code from generation.failed_images as i where i."createdAt" >= s.since and i."createdAt" < s.until offset 0
      ) as f
      group by s.place, f.code
    ) as r
    group by r.place
  )
  select s.place, row(60, s.since, coalesce(j.completed, 0), coalesce(j.failed, 0), coalesce(j.cancelled, 0), coalesce(i.made, 0),
    coalesce(r.n, 0), coalesce(i.timed, 0), coalesce(j.ms, 0), j.most, coalesce(i.ms, 0), i.most, coalesce(f.codes, '{}'),
    coalesce(r.codes, '{}'), coalesce(j.times, '{}'), coalesce(j.time_counts, '{}'), coalesce(i.times, '{}'),
    coalesce(i.time_counts, '{}'))::generation.counts
  from spans as s
  left join jobs as j on j.place = s.place
  left join failures as f on f.place = s.place
  left join images as i on i.place = s.place
  left join refusals as r on r.place = s.place;
end
$$;

-- The counters of ten minutes or an hour, added up from those of its minutes.
create or replace function generation.add_up_minutes(p_at timestamptz, p_seconds integer) returns generation.counts
language plpgsql stable set search_path = '' set jit = off
as $$
declare
  v_counts generation.counts;
begin
  with minutes as (
    select c.* from generation.counts as c where c.seconds = 60 and c.at >= p_at and c.at < p_at + make_interval(secs => p_seconds)
  ), jobs as (
    select t.took, sum(t.n)::integer as n
    from minutes as m cross join lateral unnest(m."jobTimes", m."jobTimeCounts") as t (took, n) group by t.took
  ), images as (
    select t.took, sum(t.n)::integer as n
    from minutes as m cross join lateral unnest(m."imageTimes", m."imageTimeCounts") as t (took, n) group by t.took
  ), failures as (
    select f.key, sum(f.value::integer) as n from minutes as m cross join lateral jsonb_each_text(m.failures) as f group by f.key
  ), refusals as (
    select f.key, sum(f.value::integer) as n from minutes as m cross join lateral jsonb_each_text(m.refusals) as f group by f.key
  )
  select p_seconds, p_at, sum(m.completed), sum(m.failed), sum(m.cancelled), sum(m.made), sum(m.refused), sum(m.timed),
    sum(m."jobMs"), max(m."jobMsMost"), sum(m."imageMs"), max(m."imageMsMost"),
    (select coalesce(jsonb_object_agg(f.key, f.n), '{}') from failures as f),
    (select coalesce(jsonb_object_agg(f.key, f.n), '{}') from refusals as f),
    (select coalesce(array_agg(j.took order by j.took), '{}') from jobs as j),
    (select coalesce(array_agg(j.n order by j.took), '{}') from jobs as j),
    (select coalesce(array_agg(i.took order by i.took), '{}') from images as i),
    (select coalesce(array_agg(i.n order by i.took), '{}') from images as i)
  into v_counts from minutes as m;
  return v_counts;
end
$$;

-- Counts up to p_limit minutes of the last day that are over and not counted yet. Writes nothing if there is none, if another session is
-- counting, or in a transaction that cannot write or has a snapshot or transaction id from before this call. Locks: the row of
-- generation.counting, which is skipped if somebody holds it.
create or replace function generation.roll_counts(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_now constant timestamptz := least(generation.clock(), generation.moment());
  v_over constant timestamptz := date_bin('1 minute', v_now - interval '10 seconds', 'epoch');
  v_first constant timestamptz := date_bin('1 hour', v_now - interval '1 day', 'epoch');
  v_counting generation.counting;
begin
  if current_setting('transaction_read_only')::boolean or current_setting('transaction_isolation') <> 'read committed'
    or pg_current_xact_id_if_assigned() is not null or generation.all_counted(v_first, v_over) then
    return;
  end if;
  select * into v_counting from generation.counting for update skip locked;
  if not found then
    return;
  end if;
  perform generation.forget_counts(v_first, v_over);
  if v_counting.until > v_over or v_counting."afterTransaction" > pg_current_xact_id() then
    -- The clock was ahead, or the row was restored from another server.
    update generation.counting set until = v_over, "afterTransaction" = pg_current_xact_id() where true;
  elsif v_counting."afterTransaction" <= pg_snapshot_xmin(pg_current_snapshot()) then
    perform generation.fill_counts(v_first, v_counting.until, p_limit);
    update generation.counting as c set until = v_over, "afterTransaction" = pg_current_xact_id() where c.until < v_over;
  end if;
end
$$;

-- Whether every minute from p_first until before p_over is counted, and none is marked.
create or replace function generation.all_counted(p_first timestamptz, p_over timestamptz) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return not exists (select from generation.changed_minutes as m)
    and exists (select from generation.counting as c where c.until = p_over)
    and (select count(*) from generation.counts as c where c.seconds = 60 and c.at >= p_first and c.at < p_over)
      = extract(epoch from p_over - p_first) / 60;
end
$$;

-- The windows that have a counter and to which these minutes belong: the minutes, and their ten minutes and hours.
create or replace function generation.windows_of(p_minutes timestamptz[]) returns table (seconds integer, at timestamptz)
language sql immutable set search_path = ''
as $$
  select distinct l.seconds, date_bin(make_interval(secs => l.seconds), m.at, 'epoch')
  from unnest(p_minutes) as m (at) cross join (values (60), (600), (3600)) as l (seconds)
$$;

-- Counts up to p_limit minutes that are not counted, the latest first, and the ten minutes and hours that this completes.
create or replace function generation.fill_counts(p_first timestamptz, p_until timestamptz, p_limit integer) returns void
language plpgsql set search_path = '' set jit = off
as $$
declare
  v_minutes constant timestamptz[] := array(
    select s.at from generate_series(p_first, p_until - interval '1 minute', interval '1 minute') as s (at)
    where not exists (select from generation.counts as c where c.seconds = 60 and c.at = s.at)
    order by s.at desc limit p_limit);
begin
  insert into generation.counts
  select (e.counts).*
  from generation.count_ended(v_minutes, array(select m.at + interval '1 minute' from unnest(v_minutes) as m (at))) as e;
  -- One whose minute had no counter is out of date.
  delete from generation.counts as c
  where c.seconds > 60 and (c.seconds, c.at) in (select w.seconds, w.at from generation.windows_of(v_minutes) as w);
  insert into generation.counts
  select s.*
  from generation.windows_of(v_minutes) as w
  cross join lateral generation.add_up_minutes(w.at, w.seconds) as s
  where w.seconds > 60 and (
    select count(*) from generation.counts as c
    where c.seconds = 60 and c.at >= w.at and c.at < w.at + make_interval(secs => w.seconds)
  ) = w.seconds / 60;
end
$$;

-- Deletes the counters from before p_first, those that are not over at p_over (the clock was ahead), and those with a marked minute.
create or replace function generation.forget_counts(p_first timestamptz, p_over timestamptz) returns void
language plpgsql set search_path = ''
as $$
declare
  v_changed timestamptz[];
begin
  with changed as (
    delete from generation.changed_minutes as m where true returning m.at
  )
  select array_agg(distinct m.at) into v_changed from changed as m;
  delete from generation.counts as c
  where c.at < p_first or c.at > p_over - make_interval(secs => c.seconds)
    or (c.seconds, c.at) in (select w.seconds, w.at from generation.windows_of(v_changed) as w);
end
$$;

-- Marks the minute of a time. A transaction marks a minute once; two transactions may both mark it, so that neither waits. A minute
-- that is older than what roll_counts counts (25 hours, and one more for calls in progress) is marked only if it has a counter. Without
-- one it needs no mark, even if the clock goes back: it would be counted after its change.
create or replace function generation.mark_minute(p_time timestamptz) returns void
language plpgsql set search_path = ''
as $$
declare
  v_minute constant timestamptz := date_bin('1 minute', p_time, 'epoch');
begin
  if v_minute < least(generation.clock(), generation.moment()) - interval '26 hours'
    and not exists (select from generation.counts as c where c.seconds = 60 and c.at = v_minute) then
    return;
  end if;
  if v_minute is not null and not exists (
    select from generation.changed_minutes as c where c.at = v_minute and c.xmin = pg_current_xact_id()::xid
  ) then
    insert into generation.changed_minutes values (v_minute);
  end if;
end
$$;

-- Marks the minute of a photo, or of an image that failed, that is changed, removed or written late.
create or replace function generation.mark_image() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op <> 'INSERT' then
    perform generation.mark_minute(old."createdAt");
  end if;
  if tg_op <> 'DELETE' and new."createdAt" < generation.moment() - interval '10 seconds' then
    perform generation.mark_minute(new."createdAt");
  end if;
  return null;
end
$$;

-- The same for a job that has ended.
create or replace function generation.mark_job() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  if tg_op <> 'INSERT' then
    perform generation.mark_minute(old."completedAt");
  end if;
  if tg_op <> 'DELETE' and new."completedAt" < generation.moment() - interval '10 seconds' then
    perform generation.mark_minute(new."completedAt");
  end if;
  return null;
end
$$;

-- Marks all counted minutes, when a table is truncated.
create or replace function generation.mark_all() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  insert into generation.changed_minutes select c.at from generation.counts as c where c.seconds = 60;
  return null;
end
$$;

-- A row that is written in time needs no mark, and its writer must not pay for one, so the triggers' conditions leave such rows out. They
-- use the server's clock instead of generation.moment(), because a role that inserts rows may not call that.
drop trigger if exists photo_generation_photos_mark on public.photo_generation_photos;
create trigger photo_generation_photos_mark after update or delete on public.photo_generation_photos
for each row execute function generation.mark_image();
drop trigger if exists photo_generation_photos_mark_new on public.photo_generation_photos;
create trigger photo_generation_photos_mark_new after insert on public.photo_generation_photos
for each row when (new."createdAt" < clock_timestamp() - interval '10 seconds') execute function generation.mark_image();
drop trigger if exists photo_generation_photos_mark_all on public.photo_generation_photos;
create trigger photo_generation_photos_mark_all after truncate on public.photo_generation_photos
for each statement execute function generation.mark_all();

drop trigger if exists failed_images_mark on generation.failed_images;
create trigger failed_images_mark after update or delete on generation.failed_images
for each row execute function generation.mark_image();
drop trigger if exists failed_images_mark_new on generation.failed_images;
create trigger failed_images_mark_new after insert on generation.failed_images
for each row when (new."createdAt" < clock_timestamp() - interval '10 seconds') execute function generation.mark_image();
drop trigger if exists failed_images_mark_all on generation.failed_images;
create trigger failed_images_mark_all after truncate on generation.failed_images
for each statement execute function generation.mark_all();

-- A change of a job matters only if it changes what the counters count: when the job ended, how, and how long that took.
drop trigger if exists photo_generation_queue_mark on public.photo_generation_queue;
create trigger photo_generation_queue_mark after update on public.photo_generation_queue
for each row when (
  (old."completedAt" is not null or new."completedAt" < clock_timestamp() - interval '10 seconds')
  and (old."completedAt", old."createdAt", old.status, old."errorCode")
  is distinct from (new."completedAt", new."createdAt", new.status, new."errorCode"))
execute function generation.mark_job();
drop trigger if exists photo_generation_queue_mark_new on public.photo_generation_queue;
create trigger photo_generation_queue_mark_new after insert on public.photo_generation_queue
for each row when (new."completedAt" < clock_timestamp() - interval '10 seconds') execute function generation.mark_job();
drop trigger if exists photo_generation_queue_mark_old on public.photo_generation_queue;
create trigger photo_generation_queue_mark_old after delete on public.photo_generation_queue
for each row when (old."completedAt" is not null) execute function generation.mark_job();
drop trigger if exists photo_generation_queue_mark_all on public.photo_generation_queue;
create trigger photo_generation_queue_mark_all after truncate on public.photo_generation_queue
for each statement execute function generation.mark_all();

-- A restore of rows can have lost the row that says which minutes may be counted.
insert into generation.counting default values on conflict do nothing;
