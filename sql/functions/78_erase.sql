-- Erasure removes a user's rows from every table at once. Only the Storage API can empty the user's folder, so the sweep does that;
-- generation.erasures has the folder until it is empty. Refusals: PT400 (a parameter).

-- Subtracts a user's jobs from the counters of batches that other users have jobs in too, which only direct inserts can make. A batch
-- that belonged to the user then belongs to one of the others. The caller has locked the jobs and their batches.
create or replace function generation.leave_shared_batches(p_user_id text, p_jobs bigint[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_left jsonb;
begin
  with counted as (
    select q."batchId" as id, count(*) as jobs, sum(q."numImagesPerExample") as images, sum(i.made) as made,
      count(*) filter (where q.status = 'completed') as done, count(*) filter (where q.status = 'failed') as failed,
      sum(case when q.status = 'failed' then q."numImagesPerExample" - i.made else i.refused end) as given_up
    from public.photo_generation_queue as q
    cross join lateral (
      select
        (select count(*) from public.photo_generation_photos as p where p."batchId" = q."batchId" and p."jobId" = q.id) as made,
        (select count(*) from generation.failed_images as f where f."batchId" = q."batchId" and f."jobId" = q.id) as refused
    ) as i
    where q.id = any (p_jobs) group by q."batchId"
  ), others as (
    select q."batchId" as id, min(q."userId") as user_id from public.photo_generation_queue as q
    where q."batchId" in (select c.id from counted as c) and q."userId" <> p_user_id
    group by q."batchId"
  ), shared as (
    update public.photo_generation_batches as b
    set "jobsTotal" = b."jobsTotal" - c.jobs, "jobsDone" = b."jobsDone" - c.done, "jobsFailed" = b."jobsFailed" - c.failed,
      "imagesTotal" = b."imagesTotal" - c.images, "imagesDone" = b."imagesDone" - c.made,
      "imagesFailed" = b."imagesFailed" - c.given_up,
      "userId" = case when b."userId" = p_user_id then o.user_id else b."userId" end
    from counted as c join others as o on o.id = c.id
    where b.id = c.id
    returning b.id
  )
  select jsonb_agg(jsonb_build_object('batchId', l.id, 'jobsDone', 0, 'jobsFailed', 0, 'imagesFailed', 0)) into v_left from shared as l;
  if v_left is not null then
    perform generation.roll_up(v_left);
  end if;
end
$$;

-- Removes everything of a user: jobs, also those being worked on, batches, photos, failed images, place in the order, keys.
-- A worker that still makes one of the photos is told `job_final` and discards it. Until the folder has been emptied
-- (see settle_generation_erasure) the user can order nothing, so that nothing new lies in it.
-- Returns {userFolder, jobsRemoved, batchesRemoved, photosRemoved, keysRemoved}; userFolder is null if the id cannot name a
-- folder. Errors: PT400. Locks: the user, jobs by id, then batches by id. Safe to repeat:
-- there is nothing left to remove.
create or replace function public.erase_generation_user(p_user_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_folder text := generation.user_folder(p_user_id);
  v_jobs bigint[];
  v_gone jsonb := '{}';
  v_rows integer;
begin
  perform generation.require_service();
  if coalesce(p_user_id, '') = '' then
    perform generation.refuse('400', 'missing', 'p_user_id is missing', 'Name the user to be erased.');
  end if;
  -- Waits for this user's orders in progress; later ones find the erasure and are refused.
  perform pg_advisory_xact_lock(generation.lock_class('user'), hashtext(p_user_id));
  if generation.is_folder(v_folder) then
    insert into generation.erasures ("userFolder", "requestedAt") values (v_folder, generation.clock()) on conflict do nothing;
  end if;
  select array_agg(l.id) into v_jobs from (
    select q.id from public.photo_generation_queue as q where q."userId" = p_user_id order by q.id for update
  ) as l;
  perform 1 from public.photo_generation_batches as b
  where b."userId" = p_user_id or b.id in (select q."batchId" from public.photo_generation_queue as q where q.id = any (v_jobs))
  order by b.id for update;
  perform generation.leave_shared_batches(p_user_id, v_jobs);
  delete from generation.failed_images as f using public.photo_generation_queue as q
  where q.id = any (v_jobs) and f."batchId" = q."batchId" and f."jobId" = q.id;
  delete from public.photo_generation_queue as q where q.id = any (v_jobs);
  get diagnostics v_rows = row_count;
  v_gone := v_gone || jsonb_build_object('jobsRemoved', v_rows);
  delete from public.photo_generation_batches as b where b."userId" = p_user_id;
  get diagnostics v_rows = row_count;
  v_gone := v_gone || jsonb_build_object('batchesRemoved', v_rows);
  delete from public.photo_generation_photos as p where p."userId" = p_user_id;
  get diagnostics v_rows = row_count;
  v_gone := v_gone || jsonb_build_object('photosRemoved', v_rows);
  delete from generation.idempotency_keys as k where k."userId" = p_user_id;
  get diagnostics v_rows = row_count;
  delete from generation.flows as f where f."userId" = p_user_id;
  return v_gone || jsonb_build_object('keysRemoved', v_rows, 'userFolder', case when generation.is_folder(v_folder) then v_folder end);
end
$$;

-- Up to p_limit folders in the bucket of generated photos to be emptied: {folders}. Those that no sweep has looked into come first, then
-- those that were looked into longest ago. Errors: PT400. Safe to repeat: emptying an empty folder does nothing.
create or replace function public.generation_erasures_to_sweep(p_limit integer default 10) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_folders jsonb;
begin
  perform generation.require_service();
  if p_limit is null or p_limit not between 1 and 1000 then
    perform generation.refuse('400', 'out_of_range', 'p_limit must be from 1 to 1000', 'Sweep fewer folders at once.');
  end if;
  with found as materialized (
    select e."userFolder" from generation.erasures as e
    order by e."lookedAt" nulls first, e."requestedAt" limit p_limit
    for update skip locked
  ), looked as (
    update generation.erasures as e
    set "lookedAt" = generation.clock(), "requestedAt" = least(e."requestedAt", generation.clock()),
      "emptyAt" = case when e."emptyAt" <= generation.clock() then e."emptyAt" end
    from found as f where e."userFolder" = f."userFolder"
    returning e."userFolder"
  )
  select jsonb_agg(l."userFolder" order by l."userFolder") into v_folders from looked as l;
  return jsonb_build_object('folders', coalesce(v_folders, '[]'));
end
$$;

-- Records what a sweep found in a user's folder; p_empty says that it was empty at the end. An erasure is done, and the last row about
-- the user is removed, once two sweeps in a row have found the folder empty at least ten minutes after the request. A
-- run lasts 270 s at most, so by then no upload to it is in progress. Returns {done}.
-- Errors: PT400. Safe to repeat: what is done stays done, and only generation_erasures_to_sweep begins another look.
create or replace function public.settle_generation_erasure(p_user_folder text, p_empty boolean) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_erasure generation.erasures;
begin
  perform generation.require_service();
  if p_user_folder is null or p_empty is null then
    perform generation.refuse('400', 'missing', 'p_user_folder or p_empty is missing', 'Send both.');
  end if;
  select * into v_erasure from generation.erasures as e where e."userFolder" = p_user_folder for update;
  if not found then
    return '{"done": true}';
  elsif p_empty and v_erasure."emptyAt" < v_erasure."lookedAt" then
    delete from generation.erasures as e where e."userFolder" = p_user_folder;
    return '{"done": true}';
  end if;
  update generation.erasures as e
  set "emptyAt" = case
      when p_empty and e."requestedAt" <= generation.clock() - interval '10 minutes' then coalesce(e."emptyAt", generation.clock())
    end
  where e."userFolder" = p_user_folder;
  return '{"done": false}';
end
$$;
