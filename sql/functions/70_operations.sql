-- What operators and apps do to jobs. Refusals: PT400 (a parameter), PT404 (`no_such_batch`, also
-- for somebody else's). Only cancel is open to signed-in users, for their own batches.

-- Refuses a batch that does not exist, or that a signed-in caller does not own: PT404 for both, so that
-- nobody learns which ids exist.
create or replace function generation.check_batch_access(p_batch_id text) returns void
language plpgsql stable set search_path = ''
as $$
begin
  if not exists (
    select from public.photo_generation_batches as b
    where b.id = p_batch_id and (
      not generation.caller_is_user()
      or b."userId" = nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  ) then
    perform generation.refuse('404', 'no_such_batch', 'there is no such batch', 'Check the batch id.');
  end if;
end
$$;

-- Cancels every job of a batch that has not ended. Photos already made stay; what is being generated right
-- now is discarded when its worker comes to record it. Returns {batchId, status, jobsCancelled}; a batch that
-- has ended stays as it is. Errors: PT404. Locks: jobs by id, then the batch.
-- Safe to repeat: what is cancelled is final, so the second time cancels no job.
create or replace function public.cancel_generation_batch(p_batch_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_cancelled integer;
  v_status text;
begin
  perform generation.require_user();
  perform generation.check_batch_access(p_batch_id);
  perform 1 from public.photo_generation_queue as q
  where q."batchId" = p_batch_id order by q.id for no key update;
  update public.photo_generation_queue as q
  set status = 'cancelled', "completedAt" = generation.clock(), "retryAt" = null, "waitingSince" = null,
    "lockedBy" = null, "runId" = null, "claimId" = null, "lockedAt" = null  -- the end of the lease stays: see users_near_daily_limit
  where q."batchId" = p_batch_id and q.status in ('pending', 'processing', 'rate_limited');
  get diagnostics v_cancelled = row_count;
  update public.photo_generation_batches as b
  set status = 'cancelled', "completedAt" = generation.clock()
  where b.id = p_batch_id and b.status = 'generating' and v_cancelled > 0;
  select b.status into v_status from public.photo_generation_batches as b where b.id = p_batch_id;
  return jsonb_build_object('batchId', p_batch_id, 'status', v_status, 'jobsCancelled', v_cancelled);
end
$$;

-- Makes jobs ready whose lock is older than p_older_than_seconds, as the runbook's update does. Their workers
-- are fenced off; the attempt stays spent. Returns {released}. Locks: jobs by id.
-- Safe to repeat: what is released has no lock, and whoever claims it since has a younger one.
create or replace function public.release_stale_generation_jobs(p_older_than_seconds numeric default 300)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_released integer;
begin
  perform generation.require_service();
  with stale as (
    select q.id from public.photo_generation_queue as q
    where q.status = 'processing'
      and q."lockedAt" < generation.clock() - make_interval(secs => p_older_than_seconds::double precision)
    order by q.id for no key update
  )
  update public.photo_generation_queue as q
  set status = 'pending', "lockedBy" = null, "runId" = null, "claimId" = null, "lockedAt" = null, "leaseExpiresAt" = null
  from stale where q.id = stale.id;
  get diagnostics v_released = row_count;
  return jsonb_build_object('released', v_released);
end
$$;

-- Takes up to p_limit failed jobs up again, of one batch or of all, with all their attempts; only the images
-- still missing are made. A job whose folder is being swept right now waits until that is over: what the sweep
-- removes must not be adopted meanwhile. Jobs whose every missing image was refused are left alone unless
-- p_including_refused. Cancelled batches stay cancelled. They get another turn each (see next_turns), those that wait
-- for a sweep when that is over. Returns {retried}.
-- Errors: PT404. Locks: jobs by id, then their users' tag rows, then batches by id. Safe to repeat: what is pending is not failed any more.
create or replace function public.retry_failed_generation_jobs(
  p_batch_id text default null, p_including_refused boolean default false, p_limit integer default 1000
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_ids bigint[];
  v_turns bigint[];
  v_changes jsonb;
begin
  perform generation.require_service();
  if p_batch_id is not null then
    perform generation.check_batch_access(p_batch_id);
  end if;
  select array_agg(f.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    join public.photo_generation_batches as b on b.id = q."batchId" and b.status <> 'cancelled'
    where q.status = 'failed' and (p_batch_id is null or q."batchId" = p_batch_id)
      and (p_including_refused or generation.missing_images(q."batchId", q.id, q."numImagesPerExample") <> '{}')
    order by q.id limit p_limit
    for no key update of q
  ) as f;
  -- A batch may have been cancelled while we waited for its jobs; from now on it waits for us.
  select array_agg(q.id) into v_ids from public.photo_generation_queue as q
  join public.photo_generation_batches as b on b.id = q."batchId" and b.status <> 'cancelled'
  where q.id = any (v_ids);
  select jsonb_agg(jsonb_build_object('batchId', q."batchId", 'jobsDone', 0, 'jobsFailed', -1, 'imagesFailed',
    -cardinality(generation.missing_images(q."batchId", q.id, q."numImagesPerExample")) - case when p_including_refused then (
      select count(*)::integer from generation.failed_images as f
      where f."batchId" = q."batchId" and f."jobId" = q.id) else 0 end)) into v_changes
  from public.photo_generation_queue as q where q.id = any (v_ids);
  if v_changes is null then
    return '{"retried": 0}';
  end if;
  if p_including_refused then
    delete from generation.failed_images as f using public.photo_generation_queue as q
    where q.id = any (v_ids) and f."batchId" = q."batchId" and f."jobId" = q.id;
  end if;
  perform 1 from generation.flows as f
  where f."userId" in (select q."userId" from public.photo_generation_queue as q where q.id = any (v_ids))
  order by f."userId", f.priority for no key update;
  v_turns := array(
    select q.id from public.photo_generation_queue as q
    where q.id = any (v_ids) and (q."sweepUntil" > generation.clock()) is not true);
  update public.photo_generation_queue as q
  set status = 'pending', attempts = 0, crashes = 0, suspect = false, "completedAt" = null, "sweptAt" = null, "sweepUntil" = null,
    "retryAt" = case when q."sweepUntil" > generation.clock() then least(q."sweepUntil",
      generation.clock() + generation.most_ahead('public.photo_generation_queue', 'sweepUntil')) end,
    "waitingSince" = case when q."sweepUntil" > generation.clock() then generation.clock() end,
    "errorCode" = null, "errorMessage" = null, "startTag" = coalesce(t.tag, q."startTag")
  from unnest(v_ids) as d (id) left join generation.take_turns(v_turns) as t on t.id = d.id
  where q.id = any (v_ids) and q.id = d.id;
  perform generation.roll_up(v_changes);
  return jsonb_build_object('retried', cardinality(v_ids));
end
$$;

-- Remembers that a model has been shut down and which one takes its place, so that later runs ask the
-- successor at once. Returns {model, successor}; the first successor stands. p_successor null forgets it.
-- Safe to repeat: one row per model, which the second time already says so.
create or replace function public.set_generation_model_successor(p_model text, p_successor text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_successor text;
begin
  perform generation.require_service();
  if p_model is null or p_model = p_successor then
    perform generation.refuse('400', 'bad_successor', 'a model needs a name and cannot succeed itself', 'Name two different models.');
  end if;
  insert into generation.models as m (model, successor, "successorSince")
  values (p_model, p_successor, generation.clock())
  on conflict (model) do update
    set successor = case when p_successor is null then null else coalesce(m.successor, p_successor) end,
      "successorSince" = case when p_successor is null then null else coalesce(m."successorSince", generation.clock()) end
  returning m.successor into v_successor;
  return jsonb_build_object('model', p_model, 'successor', v_successor);
end
$$;

-- Sets what the operator allows for a model: p_rate starts per window (images per minute, with the default
-- window), p_burst how many of them may come at once (0: half of the rate), and for tests the window and the grace in
-- seconds. What 429s taught, and a block they caused, are forgotten. Null leaves a value as it is. Effective at the next
-- slots. Returns the gate, as generation_gate does. Errors: PT400. Locks: the gate.
-- Safe to repeat: the same values are set again; starts given out in between are void, and asked for anew.
create or replace function public.set_generation_rate(
  p_model text, p_rate numeric default null, p_burst integer default null,
  p_window_seconds double precision default null, p_grace_seconds double precision default null
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_gate generation.gates;
begin
  perform generation.require_service();
  v_gate := generation.enter_gate(p_model);
  if p_rate < 1 or p_rate > 100000 or p_burst < 0 or p_burst > 1000 or p_window_seconds <= 0 or p_grace_seconds <= 0 then
    perform generation.refuse('400', 'out_of_range', 'rate must be 1 to 100000, burst 0 to 1000, window and grace above 0',
      'For fewer than one image a minute pause instead.');
  end if;
  v_gate.rate := coalesce(p_rate, v_gate.rate);
  v_gate.burst := nullif(coalesce(p_burst, v_gate.burst), 0);
  v_gate."windowSeconds" := coalesce(p_window_seconds, v_gate."windowSeconds");
  v_gate."graceSeconds" := coalesce(p_grace_seconds, v_gate."graceSeconds");
  v_gate."learnedRate" := null;
  v_gate."learnedFrom" := null;
  v_gate."probedAt" := null;
  v_gate.limits := 0;
  v_gate."limitedAt" := null;
  v_gate."blockedUntil" := null;
  v_gate.epoch := v_gate.epoch + 1;
  perform generation.leave_gate(generation.add_starts(v_gate, '{}', generation.moment()));
  return public.generation_gate();
end
$$;

-- Removes the gate of a model that nobody uses any more, with what it learned and what was set. One that gave out a start
-- within a day is in use. Returns the gates that are left, as generation_gate does, with {removed}: false if there was none.
-- Errors: PT409 `gate_in_use`. Locks: the gate. Safe to repeat: the second time there is none.
create or replace function public.remove_generation_gate(p_model text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_last timestamptz;
  v_found boolean;
begin
  perform generation.require_service();
  select generation.last_start(g) into v_last from generation.gates as g where g.model = p_model for update;
  v_found := found;
  if v_last > generation.moment() - interval '1 day' then
    perform generation.refuse('409', 'gate_in_use', 'this gate gave out a start within a day: it is in use',
      'Remove it a day after the last worker that uses this model has ended.');
  end if;
  delete from generation.gates as g where g.model = p_model;
  return public.generation_gate() || jsonb_build_object('removed', v_found);
end
$$;

-- The dollars in a limit, null where it is null or missing. Refuses anything but a number from 0.
create or replace function generation.checked_dollars(p_limits jsonb, p_field text) returns numeric
language plpgsql immutable set search_path = ''
as $$
declare
  v_dollars constant numeric := case when jsonb_typeof(p_limits -> p_field) = 'number' then (p_limits ->> p_field)::numeric end;
begin
  if jsonb_typeof(p_limits -> p_field) not in ('number', 'null') or v_dollars < 0 then
    perform generation.refuse('400', 'out_of_range', format('%s must be a number from 0, or null', p_field),
      format('Send {"%s": 20}.', p_field));
  end if;
  return v_dollars;
end
$$;

-- Sets the caps for all models together, what one user may order, and whether anonymous users may; p_limits may have imagesPerDay,
-- dollarsPerDay, userImagesQueued, userImagesPerDay, userDollarsPerDay (null: no limit), maxRuns, maxAgeHours and allowAnonymous.
-- What is not named stays. Returns the gate. Errors: PT400.
-- Safe to repeat: the same values are set again, none is added to.
create or replace function public.set_generation_limits(p_limits jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  if jsonb_typeof(p_limits) is distinct from 'object' then
    perform generation.refuse('400', 'wrong_type', 'p_limits must be an object', 'Send {"imagesPerDay": 500}.');
  end if;
  perform generation.refuse_unknown_fields(p_limits, array['imagesPerDay', 'dollarsPerDay', 'userImagesQueued', 'userImagesPerDay',
    'userDollarsPerDay', 'maxRuns', 'maxAgeHours', 'allowAnonymous'], 'p_limits');
  if jsonb_typeof(p_limits -> 'allowAnonymous') <> 'boolean' then
    perform generation.refuse('400', 'wrong_type', 'allowAnonymous must be true or false', 'Send {"allowAnonymous": true}.');
  end if;
  update generation.limits as l
  set "imagesPerDay" = case when p_limits ? 'imagesPerDay'
      then generation.checked_integer(p_limits -> 'imagesPerDay', 'imagesPerDay', 0, 100000000, null) else l."imagesPerDay" end,
    "dollarsPerDay" = case when p_limits ? 'dollarsPerDay' then generation.checked_dollars(p_limits, 'dollarsPerDay')
      else l."dollarsPerDay" end,
    "userImagesQueued" = case when p_limits ? 'userImagesQueued'
      then generation.checked_integer(p_limits -> 'userImagesQueued', 'userImagesQueued', 0, 100000000, null) else l."userImagesQueued" end,
    "userImagesPerDay" = case when p_limits ? 'userImagesPerDay'
      then generation.checked_integer(p_limits -> 'userImagesPerDay', 'userImagesPerDay', 0, 100000000, null) else l."userImagesPerDay" end,
    "userDollarsPerDay" = case when p_limits ? 'userDollarsPerDay' then generation.checked_dollars(p_limits, 'userDollarsPerDay')
      else l."userDollarsPerDay" end,
    "maxRuns" = generation.checked_integer(p_limits -> 'maxRuns', 'maxRuns', 1, 1000, l."maxRuns"),
    "maxAgeHours" = coalesce(generation.checked_integer(p_limits -> 'maxAgeHours', 'maxAgeHours', 1, 8760, null), l."maxAgeHours"),
    "allowAnonymous" = coalesce((p_limits -> 'allowAnonymous')::boolean, l."allowAnonymous")
  where l.id;
  return public.generation_gate();
end
$$;

-- A host as an operator names it, in the form of generation.photo_hosts. PT400 `bad_host` for what is no name of a host, and for
-- names that lead inside.
create or replace function generation.checked_photo_host(p_host text) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_host constant text := lower(btrim(coalesce(p_host, ''), E' \t\n\r'));
  v_alone constant text := regexp_replace(regexp_replace(regexp_replace(v_host, '^[a-z][a-z0-9+.-]*://', ''), '[/?#].*$', ''), '^.*@|:\d*$', '', 'g');
begin
  if v_host = '*' or generation.is_public_host(regexp_replace(v_host, '^\*\.', '')) then
    return v_host;
  elsif v_alone <> v_host and generation.is_public_host(regexp_replace(v_alone, '^\*\.', '')) then
    perform generation.refuse('400', 'bad_host', format('"%s" is more than a host', v_host), format('Use the host alone: %s', v_alone));
  end if;
  perform generation.refuse('400', 'bad_host', format('"%s" is no public host', left(v_host, 253)),
    'Name a host like photos.example.com (international names as xn--…), *.example.com for all below example.com, or * for any.');
  return null;
end
$$;

-- The hosts that https:// photos may come from: {hosts}. Safe to repeat: reads only.
create or replace function public.generation_photo_hosts() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  return jsonb_build_object('hosts', generation.allowed_photo_hosts());
end
$$;

-- Lets https:// photos come from a host: a name, `*.example.com` for every name below example.com, or `*` for any public host.
-- Orders and runs know it from the next one on. Returns {hosts, added}. Errors: PT400. Safe to repeat: the second time it is there.
create or replace function public.add_generation_photo_host(p_host text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_added integer;
begin
  perform generation.require_service();
  insert into generation.photo_hosts (host) values (generation.checked_photo_host(p_host)) on conflict do nothing;
  get diagnostics v_added = row_count;
  return public.generation_photo_hosts() || jsonb_build_object('added', v_added > 0);
end
$$;

-- Takes a host out again. Jobs that wait for photos of it fail when they are worked on. Returns {hosts, removed}: removed is false
-- if it was not there. Errors: PT400. Safe to repeat: the second time there is none.
create or replace function public.remove_generation_photo_host(p_host text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_removed integer;
begin
  perform generation.require_service();
  delete from generation.photo_hosts as h where h.host = lower(p_host);
  get diagnostics v_removed = row_count;
  if v_removed = 0 then
    perform generation.checked_photo_host(p_host);
  end if;
  return public.generation_photo_hosts() || jsonb_build_object('removed', v_removed > 0);
end
$$;

-- Stops every start until resume_generation: claims give nothing, starts given out are void at the next
-- slots. Returns the gate. Errors: PT400 for a reason of more than 1000 characters or with control characters, which a terminal
-- would obey. Locks: every gate. Safe to repeat: the first pause and its reason stand.
create or replace function public.pause_generation(p_reason text default null) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_reason text;
begin
  perform generation.require_service();
  v_reason := generation.checked_text(to_jsonb(nullif(btrim(p_reason, E' \t\n\r'), '')), 'reason', 1000);
  perform 1 from generation.gates as g order by g.model for no key update;
  update generation.gates as g set epoch = g.epoch + 1 where exists (select from generation.limits as l where l."pausedAt" is null);
  update generation.limits as l set "pausedAt" = generation.clock(), "pauseReason" = v_reason where l."pausedAt" is null;
  return public.generation_gate();
end
$$;

-- Lets work go on: ends a pause and every block, a daily one too, makes jobs that wait for a quota due now, and has Storage
-- tried at once where it refused an image.
-- Returns the gate. Locks: every gate, then jobs by id.
-- Safe to repeat: the second time there is nothing left to end, but for what was paused or blocked in between.
create or replace function public.resume_generation() returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  perform 1 from generation.gates as g order by g.model for no key update;
  update generation.limits as l
  set "pausedAt" = null, "pauseReason" = null, "storageRelapses" = 0, "storageRefused" = l."storageRefused" - 'waitUntil' where l.id;
  update generation.gates as g set "blockedUntil" = null, epoch = g.epoch + 1 where g."blockedUntil" > generation.moment();
  perform 1 from public.photo_generation_queue as q where q.status = 'rate_limited' order by q.id for no key update;
  update public.photo_generation_queue as q set "retryAt" = generation.clock()
  where q.status = 'rate_limited' and q."retryAt" > generation.clock();
  return public.generation_gate();
end
$$;
