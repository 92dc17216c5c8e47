-- What one signed-in user may use, so that no user takes everybody's quota: images in the queue, images and dollars a day, and requests
-- a day. Orders beyond the limits are refused (PT429); jobs beyond the requests of a day wait for the next day. Server-side orders with
-- the service key are not limited.

-- What an image costs that would be asked for now: of the model that started last, or whatever has taken its place, or would
-- answer there; before the first start of the worker's default model.
create or replace function generation.next_image_price() returns numeric
language plpgsql stable set search_path = ''
as $$
declare
  v_gate generation.gates;
  v_model text;
begin
  select g.* into v_gate from generation.gates as g
  where generation.last_start(g) is not null order by generation.last_start(g) desc limit 1;
  v_model := generation.current_model(coalesce(v_gate.model, 'gemini-2.5-flash-image'));
  return case when v_model = v_gate.model then generation.start_price(v_gate) else generation.image_price(v_model) end;
end
$$;

-- How many images the daily caps for all let start a day, null for any number.
create or replace function generation.images_of_caps() returns numeric
language plpgsql stable set search_path = ''
as $$
begin
  return (select least(l."imagesPerDay", l."dollarsPerDay" / nullif(generation.next_image_price(), 0)) from generation.limits as l);
end
$$;

-- How many images one user may order a day, null for any number: what the limits per user allow, and no more than half of what
-- the daily caps for all do (one image at least), so that one user's orders never use up a cap.
create or replace function generation.user_images_per_day() returns numeric
language plpgsql stable set search_path = ''
as $$
declare
  v_price constant numeric := nullif(generation.next_image_price(), 0);
  v_caps constant numeric := generation.images_of_caps();
begin
  return (
    select least(l."userImagesPerDay", floor(l."userDollarsPerDay" / v_price),
      case when v_caps is not null then greatest(floor(v_caps / 2), 1) end)
    from generation.limits as l);
end
$$;

-- Refuses an order of p_images of a signed-in user beyond what one user may have queued at once, or use of a day in California. What
-- counts for the day is what was ordered on it, also if it was cancelled, or ordering and cancelling would be free; or, if that is
-- more, the requests that were sent on it for the user and the images that are still to be made, whenever they were ordered.
-- reserve_tags has counted this order and locked the user's tag row, so no other order of this user is under way.
create or replace function generation.check_user_limits(p_user_id text, p_images integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_today constant date := generation.quota_day(generation.clock());
  v_queue_limit constant integer := (select l."userImagesQueued" from generation.limits as l);
  v_day_limit constant numeric := generation.user_images_per_day();
  v_queued bigint;
  v_used bigint;
begin
  if not generation.caller_is_user() or coalesce(v_queue_limit, v_day_limit) is null then
    return;
  end if;
  select coalesce(sum(b."imagesTotal" - b."imagesDone" - b."imagesFailed"), 0) into v_queued
  from public.photo_generation_batches as b where b."userId" = p_user_id and b.status = 'generating';
  if v_queued + p_images > v_queue_limit then
    perform generation.refuse('429', 'user_queue_full',
      format('%s of your images are not made yet and this order has %s more: one user may have %s waiting',
        v_queued, p_images, v_queue_limit),
      case when v_queue_limit = 0 then 'Users cannot order now: the operator has set this limit to 0.'
        when p_images > v_queue_limit then format('Order at most %s images at once.', v_queue_limit)
        else 'Order again when enough of them are made, or cancel some.' end);
  end if;
  select greatest(sum(f."imagesOrdered") filter (where f."orderedOn" >= v_today) - p_images,
    coalesce(sum(f."requestsSent") filter (where f."requestsOn" >= v_today), 0) + v_queued) into v_used
  from generation.flows as f where f."userId" = p_user_id;
  if v_used + p_images > v_day_limit then
    perform generation.refuse('429', 'user_daily_limit',
      format('%s of your images count for today and this order has %s more: one user may order %s a day', v_used, p_images, v_day_limit),
      case when v_day_limit = 0 then 'Users cannot order now: the operator has set this limit to 0.'
        when p_images > v_day_limit then format('Order at most %s images a day.', v_day_limit)
        else format('%s after %s.',
          case when v_used < v_day_limit then format('Order at most %s images today, or again', v_day_limit - v_used)
            else 'Order again' end,
          to_char(generation.next_daily_reset(generation.clock()) at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')) end);
  end if;
end
$$;

-- How many requests may be sent a day for one user who orders, null for any number: three quarters of what the daily caps let start.
-- One user may order half of that; the rest are requests that were sent in vain or for orders of the day before, and what a user
-- orders can bring that about again and again: answers without an image, timeouts, errors. The others are left the last quarter.
create or replace function generation.user_requests_per_day() returns numeric
language plpgsql stable set search_path = ''
as $$
begin
  -- Where nobody orders for themselves, nobody is limited, and claims need not go one at a time.
  if (select true from generation.flows as f where f."signedIn" and f.priority = 0 order by f."requestsOn" limit 1) then
    return generation.images_of_caps() * 3 / 4;
  end if;
  return null;
end
$$;

-- Counts the requests that were sent for the jobs p_ids, which are locked, for their users and this day (see put_off_users).
create or replace function generation.count_requests(p_results jsonb, p_ids bigint[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_today constant date := generation.quota_day(generation.clock());
  v_users constant text[] := array(select q."userId" from public.photo_generation_queue as q where q.id = any (p_ids));
begin
  perform 1 from generation.flows as f where f."userId" = any (v_users) order by f."userId", f.priority for no key update;
  update generation.flows as f
  set "requestsSent" = case when f."requestsOn" >= v_today then f."requestsSent" else 0 end + s.requests,
    "requestsOn" = greatest(f."requestsOn", v_today)
  from (
    select q."userId", q.priority, sum((r ->> 'requests')::integer)::integer as requests
    from jsonb_array_elements(p_results) as r join public.photo_generation_queue as q on q.id = (r ->> 'jobId')::bigint
    where q.id = any (p_ids) group by q."userId", q.priority
  ) as s
  where f."userId" = any (v_users) and f."userId" = s."userId" and f.priority = s.priority;
end
$$;

-- Makes ready jobs wait until the next day in California where p_most requests (user_requests_per_day; null: no limit) or more were
-- sent for their user today. Users who never order with a token of their own are not limited. Skips rows that are locked.
create or replace function generation.put_off_users(p_most numeric) returns void
language plpgsql set search_path = ''
as $$
declare
  v_now constant timestamptz := generation.clock();
  -- An integer, as the column is, or its index would not be used.
  v_most constant integer := ceil(least(p_most, 2147483647));
  v_users text[];
begin
  if p_most is null then
    return;
  end if;
  -- Signed-in users have one priority, and so one row.
  v_users := array(
    select f."userId" from generation.flows as f
    where f."requestsOn" = generation.quota_day(v_now) and f."requestsSent" >= v_most and f."signedIn" and f.priority = 0);
  if v_users = '{}' then
    return;
  end if;
  with ready as materialized (
    select q.id from generation.ready_jobs as q where q."userId" = any (v_users)
    for update skip locked
  )
  update public.photo_generation_queue as q
  set status = 'rate_limited', "retryAt" = generation.next_daily_reset(v_now), "waitingSince" = v_now,
    "errorCode" = 'user_daily_limit',
    "errorMessage" = 'One user''s limit for today is reached; these photos are made after midnight in California.'
  from ready as r where q.id = r.id;
end
$$;

-- The users who get no more jobs handed out for now, as an array of ids: with two requests for each image of their jobs in progress they
-- would reach p_most requests (see put_off_users). They get more when those jobs have ended, or the next day. A job that was cancelled in
-- progress counts until its worker reports it, or its lease ends. Where there is a limit, claims pass here one at a time, until
-- they are committed, so that each counts what the others have handed out.
create or replace function generation.users_near_daily_limit(p_most numeric) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_today constant date := generation.quota_day(generation.clock());
  v_images jsonb;
begin
  if p_most is null then
    return '[]';
  end if;
  perform pg_advisory_xact_lock(generation.lock_class('requests'), 0);
  select jsonb_object_agg(u."userId", u.images) into v_images from (
    select w."userId", sum(w.images) as images from (
      select q."userId", q."numImagesPerExample" as images from generation.held_jobs as q
      where q."leaseExpiresAt" > '-infinity'
      union all
      select q."userId", q."numImagesPerExample" from public.photo_generation_queue as q
      where q.status = 'cancelled' and q."leaseExpiresAt" > generation.clock()
        and q."leaseExpiresAt" <= generation.clock() + generation.most_ahead('public.photo_generation_queue', 'leaseExpiresAt')
    ) as w
    group by w."userId"
  ) as u;
  return (
    select coalesce(jsonb_agg(f."userId"), '[]') from generation.flows as f
    where f."userId" = any (array(select jsonb_object_keys(v_images))) and f.priority = 0
      and case when f."signedIn"
        then case when f."requestsOn" = v_today then f."requestsSent" else 0 end + 2 * (v_images ->> f."userId")::numeric >= p_most end);
end
$$;
