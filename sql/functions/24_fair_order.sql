-- The order in which jobs are served: by priority, then by tag, as in start-time fair queueing (Goyal, Vin, Cheng 1996). A user's tags
-- advance by the images ordered, so that users take turns, image by image, however much one of them orders. generation.flows has the
-- latest tags of each user.

-- The virtual time of a priority in start-time fair queueing (Goyal, Vin, Cheng 1996): the tag at the
-- head of what is ready, and of the jobs p_also_ready; with nothing ready, the highest tag ever given, so that nobody is held to
-- what they got while the queue was otherwise idle. Never before a job that was handed out past others: see pass_over.
create or replace function generation.virtual_time(p_priority smallint, p_also_ready bigint[] default null) returns bigint
language plpgsql stable set search_path = ''
as $$
begin
  return greatest(
    coalesce(
      least(
        (select q."startTag" from generation.ready_jobs as q
          where q.priority = p_priority
          order by q."startTag" limit 1),
        (select min(q."startTag") from public.photo_generation_queue as q where q.id = any (p_also_ready) and q.priority = p_priority)),
      (select f."lastTag" from generation.flows as f
        where f.priority = p_priority order by f."lastTag" desc limit 1)),
    (select t.tag from generation.virtual_times as t where t.priority = p_priority),
    0);
end
$$;

-- Keeps the virtual time of the priorities of the jobs p_ids, which were handed out while others were passed over (a run has enough
-- jobs of their users): without this, what is ordered meanwhile would stand where the jobs passed over do, in the past. It advances by
-- the images handed out at most, so that a job far ahead (its user cancelled what was before it) puts nobody behind all that
-- was passed over. It never goes back, or each newcomer would stand before those who came shortly before.
-- Locks the rows of these priorities until the end of the transaction.
create or replace function generation.pass_over(p_ids bigint[]) returns void
language plpgsql set search_path = ''
as $$
begin
  insert into generation.virtual_times as t (priority, tag)
  select q.priority, least(max(q."startTag"), generation.virtual_time(q.priority) + sum(q."numImagesPerExample"))
  from public.photo_generation_queue as q where q.id = any (p_ids)
  group by q.priority order by q.priority
  on conflict (priority) do update set tag = excluded.tag where t.tag < excluded.tag;
end
$$;

-- Reserves p_images units of the user's turn and returns where they begin: the k-th job of n images
-- stands at that plus k × n. Counts them for the day, and locks the user's tag row until the end of the transaction. A
-- transaction that began before midnight may come after one of the new day, and then counts for the new one.
create or replace function generation.reserve_tags(p_user_id text, p_priority smallint, p_images integer)
returns bigint
language sql set search_path = ''
as $$
  insert into generation.flows as f ("userId", priority, "lastTag", "orderedOn", "imagesOrdered", "signedIn")
  values (p_user_id, p_priority, generation.virtual_time(p_priority) + p_images,
    generation.quota_day(generation.clock()), p_images, generation.caller_is_user())
  on conflict ("userId", priority) do update
    set "lastTag" = greatest(f."lastTag", generation.virtual_time(p_priority)) + p_images,
      "orderedOn" = greatest(f."orderedOn", excluded."orderedOn"),
      "imagesOrdered" = case when f."orderedOn" >= excluded."orderedOn" then f."imagesOrdered" else 0 end + p_images,
      "signedIn" = f."signedIn" or excluded."signedIn"
  returning "lastTag" - p_images
$$;

-- Where the jobs p_ids stand once they are ready again: {id, userId, priority, tag, cost}. What comes back of a user stands in a line
-- of its own, which begins at the virtual time and advances by the images that are still missing; a job never stands before
-- where it stood. So what comes back does not wait for the user's own backlog, and together with it takes two turns for each
-- of another user's at most. `cost` is what a turn costs of the user's share: the missing images, nothing for a job
-- that waited for a quota. The jobs p_also_ready count as ready. Reads only.
create or replace function generation.next_turns(p_ids bigint[], p_also_ready bigint[] default null)
returns table (id bigint, "userId" text, priority smallint, tag bigint, cost bigint)
language plpgsql stable rows 10 set search_path = ''
as $$
begin
  return query
  with missing as materialized (
    select q.id, q."userId", q.priority, q."startTag", q.status, q."numImagesPerExample"
      - (select count(*) from public.photo_generation_photos as p where p."batchId" = q."batchId" and p."jobId" = q.id)
      - (select count(*) from generation.failed_images as f where f."batchId" = q."batchId" and f."jobId" = q.id) as images
    from public.photo_generation_queue as q where q.id = any (p_ids)
  ), lines as materialized (
    select u."userId", u.priority, greatest(f."retryTag", generation.virtual_time(u.priority, p_also_ready)) as tag
    from (select distinct m."userId", m.priority from missing as m) as u
    left join generation.flows as f on f."userId" = u."userId" and f.priority = u.priority
      and f."userId" = any (array(select n."userId" from missing as n))
  )
  select m.id, m."userId", m.priority, greatest(m."startTag",
      l.tag + sum(m.images) over (partition by m."userId", m.priority order by m."startTag", m.id))::bigint,
    case when m.status = 'rate_limited' then 0 else m.images end
  from missing as m join lines as l on l."userId" = m."userId" and l.priority = m.priority;
end
$$;

-- Gives the jobs p_ids their next turns (see next_turns): {id, tag}. Turns cost as many images of the user's share: the user's
-- later orders stand that much further back, and behind what came back. The caller has locked the users' tag rows.
create or replace function generation.take_turns(p_ids bigint[]) returns table (id bigint, tag bigint)
language plpgsql rows 10 set search_path = ''
as $$
begin
  return query
  with turns as materialized (
    select * from generation.next_turns(p_ids)
  ), moved as (
    update generation.flows as f
    set "lastTag" = greatest(f."lastTag" + u.cost, u.tag), "retryTag" = greatest(f."retryTag", u.tag)
    from (select t."userId", t.priority, max(t.tag) as tag, sum(t.cost)::bigint as cost from turns as t group by 1, 2) as u
    where f."userId" = u."userId" and f.priority = u.priority and f."userId" = any (array(select n."userId" from turns as n))
  )
  select t.id, t.tag from turns as t;
end
$$;
