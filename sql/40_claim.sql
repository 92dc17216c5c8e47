-- Jobs go out. A claim registers its run, rescues what dead runs left, moves what has come due, and hands
-- out ready jobs. Refusals: PT400 (a parameter), PT409 (`run_finished`). Being busy or having nothing to
-- give are answers, not errors.

-- What a claim is called with. The fence it makes, {worker}/{run}/{claim}, never recurs.
create or replace function generation.check_claim(
  p_worker_id text, p_claim_id uuid, p_max_jobs integer, p_run_seconds numeric
) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_worker_id is null or p_worker_id !~ '^[A-Za-z0-9._:@-]{1,100}$' then
    perform generation.refuse('400', 'bad_worker_id', 'p_worker_id must be 1 to 100 of A-Z a-z 0-9 . _ : @ -', 'Set WORKER_ID accordingly.');
  elsif p_claim_id is null then
    perform generation.refuse('400', 'missing', 'p_claim_id is missing', 'Send a fresh uuid with every claim, the same one when repeating it.');
  elsif p_max_jobs is null or p_max_jobs not between 1 and 1000 then
    perform generation.refuse('400', 'out_of_range', 'p_max_jobs must be from 1 to 1000', 'Claim fewer jobs at once.');
  elsif p_run_seconds is null or p_run_seconds not between 1 and 270 then
    perform generation.refuse('400', 'out_of_range', 'p_run_seconds must be from 1 to 270', 'A run lasts at most 270 s, so that a lock older than five minutes means a dead worker.');
  end if;
end
$$;

-- One claim of a run at a time, so that a repeated claim waits for the first and finds its jobs.
-- PT409 when the run has been finished: whatever arrives late must not take jobs nobody will work on.
create or replace function generation.enter_run(p_run_id uuid) returns void
language plpgsql set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('generation.run:' || p_run_id, 0));
  if exists (select from generation.runs as r where r.id = p_run_id and r."finishedAt" is not null) then
    perform generation.refuse('409', 'run_finished', 'this run has been finished; it claims nothing more', 'Start a new run with a new id.');
  end if;
end
$$;

-- Adds to the counters of batches and closes those whose jobs have all ended. p_changes is an array of
-- {batchId, jobsDone, jobsFailed, imagesFailed}, several for one batch allowed, negative when a failed
-- job is taken up again. Locks the batches in the order of their ids.
create or replace function generation.roll_up(p_changes jsonb) returns void
language plpgsql set search_path = ''
as $$
begin
  perform 1 from public.photo_generation_batches as b
  where b.id in (select c ->> 'batchId' from jsonb_array_elements(p_changes) as c)
  order by b.id for no key update;

  with changes as (
    select c ->> 'batchId' as batch_id, sum((c ->> 'jobsDone')::integer) as jobs_done,
      sum((c ->> 'jobsFailed')::integer) as jobs_failed, sum((c ->> 'imagesFailed')::integer) as images_failed
    from jsonb_array_elements(p_changes) as c
    group by 1
  ), counted as (
    select b.id, b."jobsDone" + c.jobs_done as jobs_done, b."jobsFailed" + c.jobs_failed as jobs_failed,
      b."imagesFailed" + c.images_failed as images_failed,
      b."jobsDone" + c.jobs_done + b."jobsFailed" + c.jobs_failed >= b."jobsTotal" as ended
    from public.photo_generation_batches as b join changes as c on c.batch_id = b.id
  )
  update public.photo_generation_batches as b
  set "jobsDone" = n.jobs_done, "jobsFailed" = n.jobs_failed, "imagesFailed" = n.images_failed,
    status = case
      when b.status = 'cancelled' then b.status
      when not n.ended then 'generating'
      when b."imagesDone" >= b."imagesTotal" then 'completed'
      when b."imagesDone" > 0 then 'partial'
      else 'failed'
    end,
    "completedAt" = case
      when b.status = 'cancelled' then b."completedAt"
      when n.ended then coalesce(b."completedAt", generation.clock())
    end
  from counted as n
  where b.id = n.id;
end
$$;

-- How many images of a job are neither made nor given up.
create or replace function generation.missing_images(p_job_id bigint, p_images integer) returns integer[]
language sql stable set search_path = ''
as $$
  select coalesce(array_agg(i order by i), '{}')
  from generate_series(0, p_images - 1) as i
  where not exists (
      select from public.photo_generation_photos as p where p."jobId" = p_job_id and p."imageIndex" = i)
    and not exists (
      select from generation.failed_images as f where f."jobId" = p_job_id and f."imageIndex" = i)
$$;

-- Why a job whose lease has run out is given up, null if it is not: its third crash, or attempts used up
-- though this one is given back. With nothing left to make it is not: the next claim only settles it.
create or replace function generation.crash_code(p_job public.photo_generation_queue) returns text
language sql stable set search_path = ''
as $$
  select case
    when generation.missing_images(p_job.id, p_job."numImagesPerExample") = '{}' then null
    when p_job.crashes >= 2 then 'crashed'
    when p_job.attempts - 1 >= p_job."maxAttempts" then 'attempts_exhausted'
  end
$$;

-- Takes back up to p_limit jobs whose lease has run out: the worker is dead, since a run ends before its
-- leases do. Each counts as a crash, and the attempt is given back. Skips rows that are locked right now.
create or replace function generation.rescue_expired_leases(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  v_ids bigint[];
  v_changes jsonb;
begin
  select array_agg(e.id order by e.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    where q.status = 'processing' and q."leaseExpiresAt" <= generation.clock()
    order by q."leaseExpiresAt" limit p_limit
    for update skip locked
  ) as e;
  if v_ids is null then
    return;
  end if;
  with judged as (
    select q.id, generation.crash_code(q) as code
    from public.photo_generation_queue as q where q.id = any (v_ids)
  ), rescued as (
    update public.photo_generation_queue as q
    set status = case when j.code is null then 'pending' else 'failed' end,
      attempts = greatest(q.attempts - 1, 0), crashes = q.crashes + 1,
      "lockedBy" = null, "lockedAt" = null, "leaseExpiresAt" = null, "retryAt" = null,
      "completedAt" = case when j.code is not null then generation.clock() end,
      "errorCode" = coalesce(j.code, 'lease_expired'),
      "errorMessage" = case j.code
        when 'crashed' then 'The worker died three times while making these photos; one of the source photos may be to blame.'
        when 'attempts_exhausted' then format('Gave up after %s attempts; the worker died during the last.', q.attempts)
        else 'The worker died while making these photos; they will be tried again.'
      end
    from judged as j
    where q.id = j.id
    returning q.id, q."batchId", q.status, q."numImagesPerExample"
  )
  select jsonb_agg(jsonb_build_object('batchId', r."batchId", 'jobsDone', 0, 'jobsFailed', 1,
    'imagesFailed', cardinality(generation.missing_images(r.id, r."numImagesPerExample"))))
  into v_changes
  from rescued as r where r.status = 'failed';
  if v_changes is not null then
    perform generation.roll_up(v_changes);
  end if;
end
$$;

-- Makes up to p_limit waiting jobs ready that have come due. They stand where they stood, but not before
-- the virtual time: due retries go before new work of the same user, not before everybody.
create or replace function generation.promote_due_jobs(p_limit integer) returns void
language sql set search_path = ''
as $$
  update public.photo_generation_queue as q
  set status = 'pending', "retryAt" = null,
    "startTag" = greatest(q."startTag", generation.virtual_time(q.priority))
  from (
    select w.id from public.photo_generation_queue as w
    where w."retryAt" <= generation.clock() and w.status in ('pending', 'rate_limited')
    order by w."retryAt" limit p_limit
    for update skip locked
  ) as due
  where q.id = due.id
$$;

-- The ids of up to p_limit ready jobs, locked, in the order they are served. A job that has been in a
-- crash is handed out alone in its run, so that one poisonous photo cannot take its neighbours down.
create or replace function generation.lock_ready_jobs(p_run_prefix text, p_limit integer) returns bigint[]
language plpgsql set search_path = ''
as $$
declare
  v_held integer;
  v_suspects integer;
  v_head record;
  v_ids bigint[];
begin
  select count(*), count(*) filter (where q.crashes > 0) into v_held, v_suspects
  from public.photo_generation_queue as q
  where q.status = 'processing'
    and q."lockedBy" collate "C" >= p_run_prefix || '/' and q."lockedBy" collate "C" < p_run_prefix || '0';
  if v_suspects > 0 then
    return null;
  end if;
  if v_held = 0 then
    select q.id, q.crashes into v_head from public.photo_generation_queue as q
    where q.status = 'pending' and q."retryAt" is null
    order by q.priority desc, q."startTag", q.id limit 1
    for update skip locked;
    if v_head.crashes > 0 then
      return array[v_head.id];
    end if;
  end if;
  select array_agg(r.id order by r.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    where q.status = 'pending' and q."retryAt" is null and q.crashes = 0
    order by q.priority desc, q."startTag", q.id limit p_limit
    for update skip locked
  ) as r;
  return v_ids;
end
$$;

-- Spends the attempt of the jobs p_ids and puts them under the fence. The lease is the rest of the run
-- plus 15 s for its last settle, never more than 290 s.
create or replace function generation.lease_jobs(p_ids bigint[], p_fence text, p_run_seconds numeric) returns void
language sql set search_path = ''
as $$
  update public.photo_generation_queue as q
  set status = 'processing', attempts = q.attempts + 1, "lockedBy" = p_fence, "lockedAt" = generation.clock(),
    "leaseExpiresAt" = generation.clock() + make_interval(secs => least(p_run_seconds + 15, 290)::double precision),
    "startedAt" = coalesce(q."startedAt", generation.clock())
  where q.id = any (p_ids)
$$;

-- The jobs under a fence as the worker gets them, in the order they are served.
create or replace function generation.fenced_jobs(p_fence text) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_agg(jsonb_build_object(
    'id', q.id, 'batchId', q."batchId", 'userId', q."userId", 'attempts', q.attempts, 'maxAttempts', q."maxAttempts",
    'crashes', q.crashes, 'exampleImageUrl', q."exampleImageUrl", 'exampleImagePrompt', q."exampleImagePrompt",
    'trainingImageUrls', q."trainingImageUrls", 'basePrompt', q."basePrompt", 'aspectRatio', q."aspectRatio",
    'numImagesPerExample', q."numImagesPerExample", 'glasses', q.glasses, 'hairColor', q."hairColor",
    'hairStyle', q."hairStyle", 'backgrounds', q.backgrounds, 'styles', q.styles,
    'missing', to_jsonb(generation.missing_images(q.id, q."numImagesPerExample")),
    -- An earlier claim may have stored objects that nobody recorded.
    'claimedBefore', q."startedAt" < q."lockedAt"
  ) order by q.priority desc, q."startTag", q.id)
  from public.photo_generation_queue as q
  where q.status = 'processing' and q."lockedBy" collate "C" = p_fence
$$;

-- Seconds until something can be claimed again: the next retry due or lease running out; null if nothing is left.
create or replace function generation.next_attempt_seconds() returns numeric
language sql stable set search_path = ''
as $$
  select round(greatest(extract(epoch from w.due_at - generation.clock()), 0)::numeric, 3)
  from (
    select least(
      (select q."retryAt" from public.photo_generation_queue as q
        where q."retryAt" is not null and q.status in ('pending', 'rate_limited') order by q."retryAt" limit 1),
      (select q."leaseExpiresAt" from public.photo_generation_queue as q
        where q.status = 'processing' order by q."leaseExpiresAt" limit 1)
    ) as due_at
  ) as w
  where w.due_at is not null
$$;

-- The time nine in ten of a model's latest 50 images took, in seconds; null before the first.
create or replace function generation.model_latency_seconds(p_model text) returns numeric
language sql stable set search_path = ''
as $$
  select round((percentile_cont(0.9) within group (order by p."generationMs") / 1000)::numeric, 3)
  from (
    select l."generationMs" from public.photo_generation_photos as l
    where l.model = p_model order by l."createdAt" desc limit 50
  ) as p
$$;

-- What goes with the jobs: the model's successor if one was changed over to, its observed latency, and
-- the buckets source photos may come from.
create or replace function generation.claim_context(p_model text) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('successor', m.successor,
    'latencySeconds', generation.model_latency_seconds(coalesce(m.successor, p_model)),
    'photoBuckets', (select coalesce(jsonb_agg(b.bucket), '[]') from generation.photo_buckets as b))
  from (values (p_model)) as asked (model)
  left join generation.models as m on m.model = asked.model
$$;

-- The answer of a claim that gives nothing: `isolated` while a ready job has to wait until the run's other
-- jobs are settled (see lock_ready_jobs), `busy` when others are taking what is ready at this very moment,
-- else `queue_empty` with the seconds until that may change.
create or replace function generation.nothing_claimed(p_run_prefix text) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('jobs', '[]'::jsonb,
    'reason', case when not r.ready then 'queue_empty' when r.holding then 'isolated' else 'busy' end,
    'nextAttemptInSeconds', case
      when not r.ready then generation.next_attempt_seconds() when r.holding then 0 else 1 end)
  from (
    select exists (
      select from public.photo_generation_queue as q where q.status = 'pending' and q."retryAt" is null
    ) as ready, exists (
      select from public.photo_generation_queue as q
      where q.status = 'processing'
        and q."lockedBy" collate "C" >= p_run_prefix || '/' and q."lockedBy" collate "C" < p_run_prefix || '0'
    ) as holding
  ) as r
$$;

-- Hands out up to p_max_jobs ready jobs to a run that lasts p_run_seconds more, and spends their attempts.
-- Returns {jobs, fence, successor, latencySeconds, photoBuckets}; with nothing to give {jobs: [], reason,
-- nextAttemptInSeconds}, where reason is `queue_empty`, `isolated` or `busy` (others hold the locks).
-- Errors: PT400 (a parameter), PT409 (`run_finished`). Locks: jobs, then batches; rows locked by others are
-- skipped. Safe to repeat: the same claim id gets the same jobs again, as long as they are held.
create or replace function public.claim_generation_jobs(
  p_run_id uuid, p_worker_id text, p_claim_id uuid, p_max_jobs integer, p_run_seconds numeric, p_model text
) returns jsonb
language plpgsql security definer set search_path = '' set lock_timeout = '2s'
as $$
declare
  v_run text := p_worker_id || '/' || p_run_id;
  v_fence text := v_run || '/' || p_claim_id;
  v_ids bigint[];
  v_jobs jsonb;
begin
  perform generation.check_claim(p_worker_id, p_claim_id, p_max_jobs, p_run_seconds);
  perform generation.enter_run(p_run_id);
  v_jobs := generation.fenced_jobs(v_fence);
  if v_jobs is null then
    perform generation.rescue_expired_leases(100);
    perform generation.promote_due_jobs(1000);
    v_ids := generation.lock_ready_jobs(v_run, p_max_jobs);
    if v_ids is null then
      return generation.nothing_claimed(v_run);
    end if;
    insert into generation.runs (id, "workerId", "startedAt", "endsBy")
    values (p_run_id, p_worker_id, generation.clock(),
      generation.clock() + make_interval(secs => p_run_seconds::double precision))
    on conflict (id) do nothing;
    perform generation.lease_jobs(v_ids, v_fence, p_run_seconds);
    v_jobs := generation.fenced_jobs(v_fence);
  end if;
  return jsonb_build_object('jobs', v_jobs, 'fence', v_fence) || generation.claim_context(p_model);
exception
  when lock_not_available then
    return jsonb_build_object('jobs', '[]'::jsonb, 'reason', 'busy', 'nextAttemptInSeconds', 1);
end
$$;
