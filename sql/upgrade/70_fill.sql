-- Execution: what the rows and batches become.

create or replace function pg_temp.mend_rows() returns void
language plpgsql as $$
declare
  v_mend record;
begin
  for v_mend in
    select m.* from pg_temp.upgrade_mend as m join pg_temp.upgrade_finding as f on f.mend = m.seq order by m.seq
  loop
    execute format($sql$
      update public.photo_generation_queue as q set %s
      where (
        select %s from (
          select r.j, pg_temp.as_status(r.j ->> 'status') as s from (select to_jsonb(q) as j offset 0) as r offset 0
        ) as n
      )$sql$, v_mend.assignment, v_mend.condition);
  end loop;
end
$$;

-- The place of every unfinished job in the fair order, as if all had been ordered one after the other while
-- the queue stood still: each user's jobs by age, one user's first beside another's first.
create or replace function pg_temp.fill_order() returns void
language plpgsql as $$
begin
  with tags as (
    select q.id, coalesce(f."lastTag", 0) + sum(q."numImagesPerExample")
      over (partition by q."userId", q.priority order by q."createdAt", q.id) as tag
    from public.photo_generation_queue as q
    left join generation.flows as f on f."userId" = q."userId" and f.priority = q.priority
    where q."startTag" = 0 and q.status in ('pending', 'processing', 'rate_limited')
  ), tagged as (
    update public.photo_generation_queue as q set "startTag" = t.tag
    from tags as t where t.id = q.id
    returning q."userId", q.priority, q."startTag"
  )
  insert into generation.flows as f ("userId", priority, "lastTag")
  select t."userId", t.priority, max(t."startTag") from tagged as t group by t."userId", t.priority
  on conflict ("userId", priority) do update set "lastTag" = greatest(f."lastTag", excluded."lastTag");
end
$$;

-- Makes the missing batches and counts anew. The photos of jobs that the old worker completed are not known
-- here: all of them count as made. Cancelled jobs of a batch that goes on count as failed, so that it can end.
create or replace function pg_temp.fill_batches() returns void
language plpgsql as $$
begin
  insert into pg_temp.upgrade_batch select c.id, c.is_new from pg_temp.batches_to_count() as c;

  insert into public.photo_generation_batches (id, "userId", "jobsTotal", "imagesTotal", "createdAt")
  select q."batchId", min(q."userId"), count(*), sum(q."numImagesPerExample"), min(q."createdAt")
  from public.photo_generation_queue as q
  where q."batchId" in (select c.id from pg_temp.upgrade_batch as c where c.is_new)
  group by q."batchId";

  with jobs as (
    select q."batchId", q.status, q."completedAt", q."numImagesPerExample" as images, (
        select count(*) from public.photo_generation_photos as p where p."batchId" = q."batchId" and p."jobId" = q.id) as made, (
        select count(*) from generation.failed_images as f where f."batchId" = q."batchId" and f."jobId" = q.id) as refused
    from public.photo_generation_queue as q
    where q."batchId" in (select c.id from pg_temp.upgrade_batch as c)
  ), counted as (
    select j."batchId" as id,
      count(*) filter (where j.status = 'completed') as done,
      count(*) filter (where j.status in ('failed', 'cancelled')) as failed,
      count(*) filter (where j.status in ('pending', 'processing', 'rate_limited')) as open,
      count(*) filter (where j.status = 'cancelled') as cancelled,
      sum(case when j.status = 'completed' then j.images - least(j.refused, j.images - j.made) else j.made end) as images_done,
      sum(case
        when j.status in ('failed', 'cancelled') then j.images - j.made
        else least(j.refused, j.images - j.made)
      end) as images_failed,
      max(j."completedAt") as ended
    from jobs as j group by j."batchId"
  )
  update public.photo_generation_batches as b
  set "jobsDone" = c.done, "jobsFailed" = c.failed, "imagesDone" = c.images_done, "imagesFailed" = c.images_failed,
    status = case
      when c.open > 0 then 'generating'
      when c.cancelled > 0 then 'cancelled'
      when c.images_done >= b."imagesTotal" then 'completed'
      when c.images_done > 0 then 'partial'
      else 'failed'
    end,
    "completedAt" = case when c.open = 0 then c.ended end
  from counted as c where b.id = c.id;
end
$$;

-- `id` numbers itself by an identity, after the highest number ever given.
create or replace function pg_temp.mend_id() returns void
language plpgsql as $$
declare
  v_sequence text := pg_catalog.pg_get_serial_sequence('public.photo_generation_queue', 'id');
  v_last bigint;
  v_highest bigint;
begin
  if (select c.from_default is not distinct from c.to_default from pg_temp.upgrade_column as c
      where c.tab = 'public.photo_generation_queue' and c.name = 'id') then
    return;
  end if;
  if v_sequence is not null then
    execute format('select last_value from %s', v_sequence) into v_last;
  end if;
  if exists (select from pg_catalog.pg_attribute as a
      where a.attrelid = to_regclass('public.photo_generation_queue') and a.attname = 'id' and a.attidentity <> '') then
    alter table public.photo_generation_queue alter column id set generated by default;
  else
    alter table public.photo_generation_queue alter column id drop default, alter column id set not null;
    if v_sequence is not null then
      execute format('drop sequence %s', v_sequence);
    end if;
    alter table public.photo_generation_queue alter column id add generated by default as identity;
  end if;
  v_sequence := pg_catalog.pg_get_serial_sequence('public.photo_generation_queue', 'id');
  execute format('revoke all on sequence %s from public, anon, authenticated', v_sequence);
  select greatest(max(q.id), v_last) into v_highest from public.photo_generation_queue as q;
  perform setval(v_sequence, coalesce(v_highest, 1), v_highest is not null);
end
$$;
