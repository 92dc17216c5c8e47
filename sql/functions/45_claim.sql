-- Jobs go out. A claim registers its run, takes back what dead runs left, makes ready what has come due, and hands out ready jobs.
-- Refusals: PT400 (a parameter), PT409 (`run_finished`, `schema_too_old`). Being busy or having nothing to give are answers, not errors.

-- Checks the parameters of a claim. The fence, {worker}/{run}/{claim}, is different for every claim.
create or replace function generation.check_claim(
  p_worker_id text, p_claim_id uuid, p_max_jobs integer, p_run_seconds numeric
) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_worker_id is null or p_worker_id !~ '^[A-Za-z0-9._:@-]{1,100}$' then
    perform generation.refuse('400', 'bad_worker_id', 'p_worker_id must be 1 to 100 of A-Z a-z 0-9 . _ : @ -',
      'Set WORKER_ID accordingly.');
  elsif p_claim_id is null then
    perform generation.refuse('400', 'missing', 'p_claim_id is missing',
      'Send a fresh uuid with every claim, the same one when repeating it.');
  elsif p_max_jobs is null or p_max_jobs not between 1 and 1000 then
    perform generation.refuse('400', 'out_of_range', 'p_max_jobs must be from 1 to 1000', 'Claim fewer jobs at once.');
  elsif p_run_seconds is null or p_run_seconds not between 1 and 270 then
    perform generation.refuse('400', 'out_of_range', 'p_run_seconds must be from 1 to 270',
      'A run lasts at most 270 s, so that a lock older than five minutes means a dead worker.');
  end if;
end
$$;

-- Locks up to p_limit ready jobs in the order they are served, without jobs of p_skip_users, and without suspects unless p_suspects.
-- Returns the ids of those that the gate can begin with p_starts starts (one at least), whether any job is a suspect, and the id of the
-- first job if it is one.
create or replace function generation.lock_first_jobs(
  p_limit integer, p_starts double precision, p_skip_users jsonb, p_suspects boolean,
  out ids bigint[], out any_suspect boolean, out first_suspect bigint
)
language plpgsql set search_path = ''
as $$
begin
  with locked as materialized (
    select q.id, q.priority, q."startTag", q.suspect, q."numImagesPerExample" as images
    from generation.ready_jobs as q
    where (p_suspects or not q.suspect) and not p_skip_users ? q."userId"
    order by q.priority desc, q."startTag", q.id limit p_limit
    for update skip locked
  ), counted as (
    select l.id, l.suspect, sum(l.images) over (order by l.priority desc, l."startTag", l.id) - l.images as before
    from locked as l
  )
  select array_agg(c.id order by c.id) filter (where c.before < greatest(p_starts, 1)), bool_or(c.suspect),
    min(c.id) filter (where c.before = 0 and c.suspect)
  into ids, any_suspect, first_suspect
  from counted as c;
end
$$;

-- Locks up to p_limit ready jobs in the order they are served and returns their ids; no more than p_starts starts can begin, but one at
-- least. A suspect of a crash is handed out alone in its run, so that one photo that kills its worker does not take other jobs down
-- again. There are rarely suspects, so the index is usually read once; with many dead rows before its head, between two vacuums, that is
-- most of the time of a claim.
create or replace function generation.lock_ready_jobs(
  p_run_id uuid, p_limit integer, p_starts double precision, p_skip_users jsonb
) returns bigint[]
language plpgsql set search_path = ''
as $$
declare
  v_held integer;
  v_suspects integer;
  v_first record;
begin
  select count(*), count(*) filter (where q.suspect) into v_held, v_suspects
  from generation.held_jobs as q where q."runId" = p_run_id;
  if v_suspects > 0 then
    return null;
  end if;
  v_first := generation.lock_first_jobs(p_limit, p_starts, p_skip_users, true);
  if v_held = 0 and v_first.first_suspect is not null then
    return array[v_first.first_suspect];
  elsif v_first.any_suspect then
    v_first := generation.lock_first_jobs(p_limit, p_starts, p_skip_users, false);
  end if;
  return v_first.ids;
end
$$;

-- Gives the jobs p_ids to a claim: spends an attempt of each, sets the fence, and leases them for the rest of the run plus 15 s for its
-- last settle, at most 290 s. Clears "sweptAt", because the claim may store objects.
create or replace function generation.lease_jobs(p_ids bigint[], p_fence text, p_run_id uuid, p_claim_id uuid, p_run_seconds numeric)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_now constant timestamptz := generation.clock();
begin
  update public.photo_generation_queue as q
  set status = 'processing', attempts = q.attempts + 1, "lockedBy" = p_fence, "runId" = p_run_id, "claimId" = p_claim_id,
    "lockedAt" = v_now,
    "leaseExpiresAt" = v_now + make_interval(secs => least(p_run_seconds + 15, 290)::double precision),
    "startedAt" = coalesce(q."startedAt", v_now), claims = q.claims + 1, "sweptAt" = null
  where q.id = any (p_ids);
end
$$;

-- The jobs that a claim holds, as the worker gets them, in the order they are served. `claimedBefore`: an earlier claim may have stored
-- objects that nobody recorded.
create or replace function generation.jobs_of_claim(p_run_id uuid, p_claim_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select jsonb_agg(j)
    from (
      select q.id, q."batchId", q."userId", generation.user_folder(q."userId") as "userFolder", q.attempts, q."maxAttempts",
        q.crashes, q."exampleImageUrl", q."exampleImagePrompt", q."trainingImageUrls", q."basePrompt", q."aspectRatio",
        q."numImagesPerExample", q.glasses, q."hairColor", q."hairStyle", q.backgrounds, q.styles,
        q."startedAt" < q."lockedAt" as "claimedBefore",
        -- Of most jobs nothing is made or given up, and asking that much is quicker.
        case when exists (select from public.photo_generation_photos as p where p."batchId" = q."batchId" and p."jobId" = q.id)
          or exists (select from generation.failed_images as f where f."batchId" = q."batchId" and f."jobId" = q.id)
        then generation.missing_images(q."batchId", q.id, q."numImagesPerExample")
        else array(select generate_series(0, q."numImagesPerExample" - 1)) end as missing
      from generation.held_jobs as q where q."runId" = p_run_id and q."claimId" = p_claim_id
      order by q.priority desc, q."startTag", q.id
    ) as j);
end
$$;

-- Seconds until the next retry is due or the next lease ends; null if there is neither.
create or replace function generation.next_attempt_seconds() returns numeric
language sql stable set search_path = ''
as $$
  select round(greatest(extract(epoch from w.due_at - generation.clock()), 0)::numeric, 3)
  from (
    select least(
      (select q."retryAt" from generation.waiting_jobs as q order by q."retryAt" limit 1),
      (select q."leaseExpiresAt" from generation.held_jobs as q order by q."leaseExpiresAt" limit 1)
    ) as due_at
  ) as w
  where w.due_at is not null
$$;

-- The 90th percentile of the time that a model's latest 50 images took, in seconds; null before the first.
create or replace function generation.model_latency_seconds(p_model text) returns numeric
language plpgsql stable set search_path = ''
as $$
begin
  return (
    select round((percentile_cont(0.9) within group (order by p."generationMs") / 1000)::numeric, 3)
    from (
      select l."generationMs" from public.photo_generation_photos as l
      where l.model = p_model order by l."createdAt" desc limit 50
    ) as p);
end
$$;

-- The answer of a claim: its jobs and fence, the models that replaced p_model in order and the last of them, its latency, the price of an
-- image by model, the buckets and hosts that photos may come from, an image that Storage did not keep (see report_storage), the limit of
-- images that applied, and the time.
create or replace function generation.claim_response(
  p_run_id uuid, p_claim_id uuid, p_fence text, p_model text, p_most_images double precision
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_chain constant text[] := generation.successors(p_model);
  v_successor constant text := v_chain[cardinality(v_chain)];
begin
  -- One object at once: the jobs are large, and `||` would copy them.
  return jsonb_build_object('jobs', coalesce(generation.jobs_of_claim(p_run_id, p_claim_id), '[]'), 'fence', p_fence,
    'successor', v_successor, 'successors', v_chain, 'latencySeconds', generation.model_latency_seconds(coalesce(v_successor, p_model)),
    'prices', (select coalesce(jsonb_object_agg(p.model, p.dollars), '{}') from generation.prices as p),
    'photoBuckets', (select coalesce(jsonb_agg(b.bucket), '[]') from generation.photo_buckets as b),
    'photoHosts', generation.allowed_photo_hosts(),
    'storageRefused', (select l."storageRefused" from generation.limits as l), 'mostImages', p_most_images,
    'answeredAt', generation.moment());
end
$$;

-- The answer of a claim without jobs: `isolated` while a ready job waits for the run's other jobs to be settled (see
-- lock_ready_jobs), `busy` when other claims are taking the ready jobs right now, else `queue_empty` with the seconds until that may
-- change.
create or replace function generation.empty_claim(p_run_id uuid) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('jobs', '[]'::jsonb,
    'reason', case when not r.ready then 'queue_empty' when r.holding then 'isolated' else 'busy' end,
    'nextAttemptInSeconds', case
      when not r.ready then generation.next_attempt_seconds() when r.holding then 0 else 1 end)
  from (
    select exists (select from generation.ready_jobs as q) as ready,
      exists (select from generation.held_jobs as q where q."runId" = p_run_id) as holding
  ) as r
$$;

-- The gate that a worker asking for p_model will stand at, as it is now. Reads it without a lock, unless it has to be made, or a wrong
-- clock has left it in the future: then it is written back, so that its waits have an end.
create or replace function generation.current_gate(p_model text) returns generation.gates
language plpgsql set search_path = ''
as $$
declare
  v_model constant text := generation.current_model(p_model);
  v_now constant timestamptz := generation.moment();
  v_gate generation.gates;
begin
  select g.* into v_gate from generation.gates as g where g.model = v_model;
  if not found then
    return generation.lock_gate(v_model);
  elsif generation.gate_in_time(v_gate, v_now) is distinct from v_gate then
    v_gate := generation.lock_gate(v_model);
    perform generation.save_gate(v_gate);
    return v_gate;
  end if;
  return generation.age_gate(v_gate, v_now);
end
$$;

-- Why a run may not claim now, as {reason, seconds}; reason is null if it may. A run that is not registered yet (null) needs a place among
-- the runs at once; the place of a dead run is free 90 s after the last sign of it. A run may wait up to 30 s for the gate; if the wait is
-- longer, it should not begin.
create or replace function generation.claim_closed(
  p_run generation.runs, p_gate generation.gates, p_left integer, p_run_seconds numeric
) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_open integer;
  v_next timestamptz;
begin
  if p_run.id is null then
    perform pg_advisory_xact_lock(generation.lock_class('runs'), 0);
    select count(*), min(r.until) into v_open, v_next from generation.runs_at_once(generation.clock()) as r;
    if v_open >= (select l."maxRuns" from generation.limits as l) then
      return jsonb_build_object('reason', 'too_many_runs', 'seconds', round(extract(epoch from v_next - generation.clock())::numeric, 3));
    end if;
  end if;
  return generation.gate_closed(p_gate, p_left, least(p_run_seconds, 30)::double precision);
end
$$;

-- Adds {answeredAt}, the database's time, to the answer of a claim. The worker has no reliable clock, and computes from it when to claim
-- again.
create or replace function generation.with_server_time(p_answer jsonb) returns jsonb
language plpgsql volatile set search_path = ''
as $$
begin
  return p_answer || jsonb_build_object('answeredAt', generation.moment());
end
$$;

-- Hands out up to p_max_jobs ready jobs to a run that lasts p_run_seconds more, and spends an attempt of each.
-- p_photo_host is the host of the project's address; photos may come from it. p_skip_users is an array of user ids whose jobs are not
-- handed out, because the run has enough jobs of theirs that wait. p_max_images is a limit of images: the job that reaches it is the
-- last; null means no limit. p_schema_version is the version of the schema that the worker needs; null means any.
-- Returns {jobs, fence, successor, successors, prices, latencySeconds, photoBuckets, photoHosts, storageRefused, mostImages, answeredAt};
-- without jobs {jobs: [], reason, nextAttemptInSeconds, answeredAt}, where reason is `queue_empty`, `isolated`, `busy` (others hold the
-- locks), `rate_limited`, `daily_cap`, `paused` or `too_many_runs`. It hands out no more jobs than the gate can start within the run and
-- its horizon (a sixth of the window: 10 s), but one at least, so that jobs which come later take their fair turn in the queue.
-- Errors: PT400 (a parameter), PT409 (`run_finished`, `schema_too_old`). Locks: the run, the gate if it is new or a wrong clock has set
-- it, tag rows of users whose retries are due, jobs, then batches; skips rows that others have locked.
-- Safe to repeat: the same claim id gets the same jobs again, as far as they are held, and no others.
create or replace function public.claim_generation_jobs(
  p_run_id uuid, p_worker_id text, p_claim_id uuid, p_max_jobs integer, p_run_seconds numeric, p_model text,
  p_photo_host text default null, p_skip_users jsonb default '[]', p_max_images integer default null,
  p_schema_version integer default null
) returns jsonb
language plpgsql security definer set search_path = '' set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan
as $$
declare
  v_fence constant text := concat_ws('/', p_worker_id, p_run_id, p_claim_id);
  v_ids bigint[];
  v_gate generation.gates;
  v_run generation.runs;
  v_closed jsonb;
  v_left integer;
  v_most_images double precision;
  v_most_requests numeric;
  v_skip_users jsonb;
begin
  perform generation.require_service();
  perform generation.renew_plans();
  perform generation.check_claim(p_worker_id, p_claim_id, p_max_jobs, p_run_seconds);
  if p_max_images < 1 then
    perform generation.refuse('400', 'out_of_range', 'p_max_images must be at least 1', 'Claim one image or more, or leave it out.');
  end if;
  if p_schema_version > generation.schema_version() then
    perform generation.refuse('409', 'schema_too_old',
      format('the database is at %s, this worker needs %s', generation.schema_version(), p_schema_version), 'Run sql/install.sql.');
  end if;
  if jsonb_typeof(p_skip_users) <> 'array' then
    perform generation.refuse('400', 'wrong_type', 'p_skip_users must be an array of user ids', 'Send ["…"], or leave it out.');
  end if;
  v_run := generation.lock_run(p_run_id);
  perform generation.record_heartbeat(v_run.id);
  v_gate := generation.current_gate(p_model);
  perform generation.allow_own_photo_host(p_photo_host);
  perform generation.correct_times(1000);
  v_left := generation.left_today(v_gate);
  v_most_images := least(p_max_images, v_left,
    generation.starts_within(v_gate, least(p_run_seconds::double precision, generation.horizon_seconds(v_gate)), generation.moment()));
  -- A claim that was answered before gets what it still holds.
  if p_claim_id = any (v_run."claimIds") is not true then
    v_closed := generation.claim_closed(v_run, v_gate, v_left, p_run_seconds);
    if v_closed ->> 'reason' is not null then
      perform generation.record_idle_run(p_run_id, p_worker_id, v_closed ->> 'reason');
      return generation.with_server_time(jsonb_build_object('jobs', '[]'::jsonb, 'reason', v_closed ->> 'reason',
        'nextAttemptInSeconds', v_closed -> 'seconds'));
    end if;
    perform generation.rescue_expired_leases(100);
    perform generation.promote_due_jobs(1000);
    v_most_requests := generation.user_requests_per_day();
    perform generation.put_off_users(v_most_requests);
    v_skip_users := coalesce(p_skip_users, '[]') || generation.users_near_daily_limit(v_most_requests);
    v_ids := generation.lock_ready_jobs(p_run_id, p_max_jobs, v_most_images, v_skip_users);
    if v_ids is null then
      perform generation.record_idle_run(p_run_id, p_worker_id, 'queue_empty');
      return generation.with_server_time(generation.empty_claim(p_run_id));
    end if;
    insert into generation.runs as r (id, "workerId", "startedAt", "endsBy", "heardAt", "claimIds")
    values (p_run_id, p_worker_id, generation.clock(),
      generation.clock() + make_interval(secs => p_run_seconds::double precision), generation.clock(), array[p_claim_id])
    on conflict (id) do update set "claimIds" = r."claimIds" || p_claim_id;
    perform generation.lease_jobs(v_ids, v_fence, p_run_id, p_claim_id, p_run_seconds);
    if v_skip_users <> '[]' then
      perform generation.pass_over(v_ids);
    end if;
  end if;
  return generation.claim_response(p_run_id, p_claim_id, v_fence, p_model, v_most_images);
exception
  when lock_not_available then
    return generation.with_server_time(jsonb_build_object('jobs', '[]'::jsonb, 'reason', 'busy', 'nextAttemptInSeconds', 1));
end
$$;
