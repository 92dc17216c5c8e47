-- Runs: one row in generation.runs per invocation that claimed something. The first claim inserts the row, every later call shows that the
-- run is alive, and its end releases the jobs that it still holds. Refusals: PT400 (a parameter), PT409 (`run_finished`).

-- Locks a run, so that a repeated claim waits for the first one and finds its jobs. Returns the run's row, or null before its first claim.
-- PT409 if the run has ended: a late claim must not take jobs that nobody will work on.
create or replace function generation.lock_run(p_run_id uuid) returns generation.runs
language plpgsql set search_path = ''
as $$
declare
  v_run generation.runs;
begin
  perform pg_advisory_xact_lock(generation.lock_class('run'), hashtext(p_run_id::text));
  select r.* into v_run from generation.runs as r where r.id = p_run_id;
  if v_run."finishedAt" is not null then
    perform generation.refuse('409', 'run_finished', 'this run has been finished; it claims nothing more',
      'Start a new run with a new id.');
  end if;
  return v_run;
end
$$;

-- Notes that a run is alive, at most every ten seconds. Locks: the run, unless another call has locked it: that one
-- notes it as well, or ends the run.
create or replace function generation.record_heartbeat(p_run_id uuid) returns void
language plpgsql set search_path = ''
as $$
declare
  v_silent_since constant timestamptz := generation.clock() - interval '10 s';
begin
  if exists (select from generation.runs as r where r.id = p_run_id and r."finishedAt" is null and r."heardAt" < v_silent_since) then
    update generation.runs as r set "heardAt" = generation.clock()
    where r.id = (
      select h.id from generation.runs as h
      where h.id = p_run_id and h."finishedAt" is null and h."heardAt" < v_silent_since
      for no key update skip locked);
  end if;
end
$$;

-- The runs that count towards maxRuns, and until when each counts: until its deadline, but no longer than 90 s after it last claimed, asked
-- the gate, recorded an image or settled a job (by default a call to Gemini takes a minute at most). So a run that has died does not
-- hold its place for longer. A run that lives but was silent for longer continues beside the run that has taken its place.
create or replace function generation.runs_at_once(p_now timestamptz) returns table (id uuid, until timestamptz)
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select r.id, least(r."endsBy", r."heardAt" + interval '90 s') from generation.runs as r
  where r."finishedAt" is null and r."endsBy" > p_now and r."heardAt" > p_now - interval '90 s';
end
$$;

-- Writes a row for a run that found nothing to do, in two cases only: it is the first run of all, or the first after a run that ended with
-- a problem, and the problem is over. It is over when no job is ready or in progress that could meet it again; nor may any job be waiting
-- if Storage did not keep an image, or if the run continued in spite of its problem. The row gets a new id, because with the run's own
-- id a repeated claim would find the run finished. A run that has claimed leaves its own row when it ends. Reads only heads of indexes.
create or replace function generation.record_idle_run(p_run_id uuid, p_worker_id text, p_reason text) returns void
language plpgsql set search_path = ''
as $$
declare
  v_last jsonb;
  v_stopped boolean;
  v_now constant timestamptz := generation.clock();
begin
  select r.summary into v_last from generation.runs as r
  where r."finishedAt" is not null order by r."startedAt" desc limit 1;
  v_stopped := v_last ->> 'stopReason' in ('misconfigured', 'queue_lost');
  if ((v_stopped or v_last ->> 'problem' is not null) is not true and exists (select from generation.runs))
    or exists (select from generation.ready_jobs as q)
    or exists (select from generation.held_jobs as q)
    or ((not v_stopped or exists (select from generation.limits as l where l."storageRefused" is not null))
      and exists (select from generation.waiting_jobs as q))
    or exists (select from generation.runs as r where r.id = p_run_id) then
    return;
  end if;
  insert into generation.runs (id, "workerId", "startedAt", "endsBy", "finishedAt", summary)
  values (gen_random_uuid(), p_worker_id, v_now, v_now, v_now,
    jsonb_build_object('runId', p_run_id, 'stopReason', p_reason, 'claimed', 0));
end
$$;

-- Ends a run: releases what its claims still hold, gives up its place at the gate, writes its row, and refuses its later claims.
-- Workers call it even if the answer of a claim was lost, because only this finds the jobs of that claim. p_spent_jobs has the id of a held
-- job once for each request that was sent; the other jobs get their attempt back. `answeredBy` in the summary has the images that another
-- model made than the requested one; they count for that model (see count_answers). Returns {released}.
-- Errors: PT400. Locks: the run, gates by name, jobs by id, batches by id, then the run's place. Safe to repeat: the first summary stands.
create or replace function public.finish_generation_run(
  p_run_id uuid, p_worker_id text, p_summary jsonb, p_spent_jobs jsonb default '[]'
) returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_results jsonb;
  v_released integer;
begin
  perform generation.require_service();
  perform generation.renew_plans();
  perform generation.check_claim(p_worker_id, p_run_id, 1, 1);
  perform pg_advisory_xact_lock(generation.lock_class('run'), hashtext(p_run_id::text));
  if not exists (select from generation.runs as r where r.id = p_run_id and r."finishedAt" is not null) then
    perform generation.count_answers(p_summary);
  end if;
  select coalesce(jsonb_agg(jsonb_build_object('jobId', q.id, 'fence', q."lockedBy", 'outcome', 'released',
      'code', 'released', 'message', 'The run ended before this job did.',
      'attemptSpent', s.requests > 0, 'requests', s.requests)), '[]') into v_results
  from generation.held_jobs as q cross join lateral (
    select count(*) as requests from jsonb_array_elements(p_spent_jobs) as j where j = to_jsonb(q.id)
  ) as s
  where q."runId" = p_run_id;
  insert into generation.runs as r (id, "workerId", "startedAt", "endsBy", "finishedAt", summary)
  values (p_run_id, p_worker_id, generation.clock(), generation.clock(), generation.clock(), p_summary)
  on conflict (id) do update
    set "finishedAt" = excluded."finishedAt", summary = excluded.summary
    where r."finishedAt" is null;
  v_released := jsonb_array_length(generation.apply_results(v_results));
  delete from generation.gate_turns as t where t."runId" = p_run_id;
  return jsonb_build_object('released', v_released);
end
$$;
