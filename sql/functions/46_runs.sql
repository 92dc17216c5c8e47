-- Runs: one row in generation.runs per invocation that claimed something. Its first claim makes the row, claims and questions to the
-- gate show that the run is alive, and its end releases what it still holds. Refusals: PT400 (a parameter), PT409 (`run_finished`).

-- One claim of a run at a time, so that a repeated claim waits for the first and finds its jobs. Returns the run as
-- it is registered, null before its first claim.
-- PT409 when the run has been finished: whatever arrives late must not take jobs nobody will work on.
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

-- Notes that a run is alive, at most every ten seconds. Locks: the run; does not wait for it, since whoever holds it
-- hears or ends it.
create or replace function generation.hear_run(p_run_id uuid) returns void
language plpgsql set search_path = ''
as $$
begin
  update generation.runs as r set "heardAt" = generation.clock()
  where r.id = (
    select h.id from generation.runs as h
    where h.id = p_run_id and h."finishedAt" is null and h."heardAt" < generation.clock() - interval '10 s'
    for no key update skip locked);
end
$$;

-- The runs that count as running at once, and until when each does if nothing more is heard of it: its deadline, or 90 s after it last
-- claimed, asked the gate, recorded an image or settled a job, since a call to Gemini takes a minute at most by default. A run that died
-- holds no place longer; one that is silent for longer works on, beside the run that has taken its place.
create or replace function generation.runs_at_once(p_now timestamptz) returns table (id uuid, until timestamptz)
language plpgsql stable set search_path = ''
as $$
begin
  return query
  select r.id, least(r."endsBy", r."heardAt" + interval '90 s') from generation.runs as r
  where r."finishedAt" is null and r."endsBy" > p_now and r."heardAt" > p_now - interval '90 s';
end
$$;

-- A run that finds nothing to do leaves no row, but for two things that those who watch must know: that a run has come at
-- all, and that the trouble of the one before is over. That is over once no job that is ready or under way may still meet what
-- was wrong, nor, where Storage did not keep an image or the run went on in spite of its problem, any job that waits. The row has
-- an id of its own: under the run's a repeated claim would find it finished. A run that claimed before leaves its own row when it
-- ends. Reads heads of indexes only.
create or replace function generation.note_idle_run(p_run_id uuid, p_worker_id text, p_reason text) returns void
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

-- Ends a run: releases whatever its claims still hold, writes its row, and refuses its later claims. Called
-- even when a claim's answer was lost, for then only this knows what it took. p_spent_jobs lists the ids of
-- held jobs once for each request that was sent; the others get their attempt back. Images that another model made than the
-- one that was asked (`answeredBy` in the summary) count for that model from now on. Returns {released}.
-- Errors: PT400. Locks: the run, gates by name, jobs by id, then batches by id. Safe to repeat: the first summary stands.
create or replace function public.finish_generation_run(
  p_run_id uuid, p_worker_id text, p_summary jsonb, p_spent_jobs jsonb default '[]'
) returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_results jsonb;
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
  return jsonb_build_object('released', jsonb_array_length(generation.apply_results(v_results)));
end
$$;
