-- The order in which jobs are served: by priority, then by tag, as in start-time fair queueing (Goyal, Vin, Cheng 1996). A user's tags
-- advance by the images ordered, so that users take turns, image by image, however much one of them orders. generation.flows has the
-- latest tags of each user.

-- The virtual time of a priority: the lowest tag of the ready jobs and of the jobs p_also_ready. If no job is ready, it is the highest tag
-- ever given, so that a user who was served while nobody else ordered is not behind others later. It is never lower than what pass_over
-- has stored.
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

-- Stores the virtual time after the jobs p_ids were handed out and others with lower tags were not, because the run has enough jobs of
-- their users. Without this the virtual time would stay at the lowest of those tags, and a new order would get such a low tag too, before
-- orders that came earlier. The virtual time advances by no more than the images handed out, so that one job with a very high tag (its user
-- cancelled the jobs before it) does not put new orders behind all the jobs that were passed over. It never goes back.
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

-- Reserves p_images tags for the user and returns where they begin: the k-th job of n images has that plus k × n as its tag. Counts the
-- images for the day, and locks the user's tag row until the end of the transaction. A transaction that began before midnight counts
-- for the new day if another one has already counted for that.
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

-- The tags of the jobs p_ids once they are ready again: {id, userId, priority, tag, cost}. A user's retries have a line of their own: their
-- tags begin at the virtual time and advance by the images that are still missing, and no job gets a lower tag than it had. So
-- retries do not wait for the user's own backlog, and a user with both takes at most two turns for each turn of another
-- user. `cost` is what a turn costs of the user's share: the missing images, or nothing for a job that waited for a quota. The
-- jobs p_also_ready count as ready. Reads only.
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

-- Gives the jobs p_ids their next turns (see next_turns): {id, tag}. The user's later orders get tags that are higher by what the turns
-- cost, and higher than the tags of these jobs. The caller has locked the users' tag rows.
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
