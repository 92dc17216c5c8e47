-- Repairs times that were stored while the database's clock was ahead. They lie in the future once the clock is corrected, and a retry,
-- a lease or a block would last too long by the difference. time_bounds says for every time in the tables how far in the future it can
-- be at most. What is further ahead is moved: by correct_times and, for a gate, current_gate in each claim, and by the sweep for its own.
--
-- Most waits are stored with their beginning. One that began in the future was set by a wrong clock; it is moved with its
-- beginning and lasts as long as it was to. Without a beginning (an operator's own retryAt, for example) a wait is left
-- alone, and times_ahead tells of it if no worker could have set it.

-- Every time that is stored: how far ahead of the clock it can lie at most, and the column with the beginning of that wait. A
-- bound of 0 is a time in the past. A gate's times have bounds by its window, here those of a minute: see gate_in_time.
create or replace function generation.time_bounds() returns table (relation text, name text, most interval, beginning text)
language sql immutable set search_path = ''
as $$
  values
  -- Google may ask for a day and a retry cap be another, or a daily quota last for 25 h and the cap be added.
  ('public.photo_generation_queue', 'retryAt', interval '49 hours', 'waitingSince'),
  ('public.photo_generation_queue', 'leaseExpiresAt', interval '290 seconds', 'lockedAt'),
  ('public.photo_generation_queue', 'sweepUntil', interval '3 minutes', null),
  ('public.photo_generation_queue', 'waitingSince', interval '0', null),
  ('public.photo_generation_queue', 'lockedAt', interval '0', null),
  ('public.photo_generation_queue', 'createdAt', interval '0', null),
  ('public.photo_generation_queue', 'startedAt', interval '0', null),
  ('public.photo_generation_queue', 'completedAt', interval '0', null),
  ('public.photo_generation_queue', 'sweptAt', interval '0', null),
  ('public.photo_generation_batches', 'createdAt', interval '0', null),
  ('public.photo_generation_batches', 'completedAt', interval '0', null),
  ('public.photo_generation_photos', 'createdAt', interval '0', null),
  ('generation.runs', 'endsBy', interval '270 seconds', 'startedAt'),
  ('generation.runs', 'startedAt', interval '0', null),
  ('generation.runs', 'finishedAt', interval '0', null),
  ('generation.runs', 'heardAt', interval '0', null),
  ('generation.runs', 'rescuedAt', interval '0', null),
  ('generation.gates', 'startTimes', interval '5 minutes', null),
  ('generation.gates', 'roomAt', interval '7 minutes', null),
  ('generation.gates', 'paceAt', interval '6 minutes', null),
  ('generation.gates', 'blockedUntil', interval '25 hours', 'limitedAt'),
  ('generation.gates', 'probeAt', interval '1 hour', null),
  ('generation.gates', 'limitedAt', interval '0', null),
  ('generation.gates', 'learnedAt', interval '0', null),
  ('generation.gates', 'probedAt', interval '0', null),
  ('generation.gate_turns', 'turnAt', interval '1 day', null),
  ('generation.gate_turns', 'heardAt', interval '0', null),
  ('generation.erasures', 'requestedAt', interval '0', null),
  ('generation.erasures', 'lookedAt', interval '0', null),
  ('generation.erasures', 'emptyAt', interval '0', null),
  ('generation.failed_images', 'createdAt', interval '0', null),
  ('generation.counts', 'at', interval '0', null),
  ('generation.changed_minutes', 'at', interval '0', null),
  ('generation.counting', 'until', interval '0', null),
  ('generation.idempotency_keys', 'createdAt', interval '0', null),
  ('generation.limits', 'pausedAt', interval '0', null),
  ('generation.limits', 'storageProvedAt', interval '0', null),
  ('generation.models', 'successorSince', interval '0', null),
  ('generation.schema_migrations', 'appliedAt', interval '0', null),
  ('generation.worker_calls', 'calledAt', interval '0', null)
$$;

-- How far ahead a time can lie at most.
create or replace function generation.most_ahead(p_relation text, p_name text) returns interval
language plpgsql immutable set search_path = ''
as $$
begin
  return (select b.most from generation.time_bounds() as b where b.relation = p_relation and b.name = p_name);
end
$$;

-- A time, or p_latest if it lies beyond; null stays null.
create or replace function generation.not_after(p_time timestamptz, p_latest timestamptz) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
begin
  return case when p_time > p_latest then p_latest else p_time end;
end
$$;

-- A gate with no time that lies further ahead than it can: a block that began in the future is moved with its beginning, and so
-- is what is past. Starts are given a sixth of a window ahead; and a 429 takes one more; a window more does no harm.
create or replace function generation.gate_in_time(p_gate generation.gates, p_now timestamptz) returns generation.gates
language plpgsql immutable set search_path = ''
as $$
declare
  v_window constant interval := make_interval(secs => p_gate."windowSeconds");
  v_last constant timestamptz := p_gate."startTimes"[cardinality(p_gate."startTimes")];
  v_farthest timestamptz;
begin
  -- Nearly always no time is ahead.
  if coalesce(greatest(p_gate."limitedAt", p_gate."learnedAt", p_gate."probedAt") <= p_now, true)
    and coalesce(greatest(p_gate."blockedUntil", p_gate."probeAt", v_last) <= p_now + least(v_window, interval '1 hour'), true) then
    return p_gate;
  end if;
  v_farthest := p_now + v_window + make_interval(secs => generation.even_seconds(p_gate));
  if p_gate."limitedAt" > p_now then
    p_gate."blockedUntil" := p_now + (p_gate."blockedUntil" - p_gate."limitedAt");
    p_gate."limitedAt" := p_now;
  end if;
  p_gate."blockedUntil" := generation.not_after(
    p_gate."blockedUntil", p_now + generation.most_ahead('generation.gates', 'blockedUntil'));
  if v_last > v_farthest then
    p_gate."startTimes" := array(select least(t.at, v_farthest) from unnest(p_gate."startTimes") with ordinality as t (at, place)
      order by t.place);
    p_gate := generation.add_starts(p_gate, '{}', p_now);
  end if;
  p_gate."probeAt" := generation.not_after(p_gate."probeAt", p_now + 60 * v_window);
  p_gate."learnedAt" := generation.not_after(p_gate."learnedAt", p_now);
  p_gate."probedAt" := generation.not_after(p_gate."probedAt", p_now);
  return p_gate;
end
$$;

-- Whether a run, a lease, a wait, a counted minute or a refusal of Storage lies further ahead than it can: one look at the far end of
-- each index, for which the order is there.
create or replace function generation.is_ahead(p_now timestamptz) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
  return coalesce(
    (select true from generation.runs as r where r."startedAt" > p_now order by r."startedAt" desc limit 1),
    (select true from generation.held_jobs as q
      where q."leaseExpiresAt" > p_now + generation.most_ahead('public.photo_generation_queue', 'leaseExpiresAt')
      order by q."leaseExpiresAt" desc limit 1),
    (select true from public.photo_generation_queue as q where q."waitingSince" > p_now order by q."waitingSince" desc limit 1),
    (select true from generation.counts as c where c.seconds = 60 and c.at > p_now - interval '70 s' order by c.at desc limit 1),
    (select true from generation.limits as l where (l."storageRefused" ->> 'at')::timestamptz > p_now),
    false);
end
$$;

-- Moves runs, leases and waits that a wrong clock has left in the future, up to p_limit of each, and Storage's refusal; marks minutes that
-- were counted too early. Runs are moved by what the latest is ahead, so that their order stays. Locks: the row of limits, but only
-- where Storage refused an image in the future; runs, jobs; those locked by others are skipped.
create or replace function generation.correct_times(p_limit integer) returns void
language plpgsql set search_path = ''
as $$
declare
  -- The latest of both: what another session has just written is not ahead of this transaction's beginning.
  v_now constant timestamptz := greatest(generation.clock(), generation.moment());
  v_latest timestamptz;
  v_runs uuid[];
  v_ids bigint[];
begin
  if not generation.is_ahead(v_now) then
    return;
  end if;
  select max(r."startedAt") into v_latest from generation.runs as r;
  if v_latest > v_now then
    select array_agg(a.id) into v_runs from (
      select r.id from generation.runs as r where r."startedAt" > v_now
      order by r."startedAt" desc limit p_limit for no key update skip locked
    ) as a;
    update generation.runs as r
    set "startedAt" = r."startedAt" - (v_latest - v_now), "endsBy" = r."endsBy" - (v_latest - v_now),
      "heardAt" = generation.not_after(r."heardAt" - (v_latest - v_now), v_now),
      "finishedAt" = generation.not_after(r."finishedAt" - (v_latest - v_now), v_now)
    where r.id = any (v_runs);
  end if;
  -- Minutes that were counted before they were ten seconds over: marked, they are counted again.
  insert into generation.changed_minutes
  select c.at from generation.counts as c
  where c.seconds = 60 and c.at > v_now - interval '70 s' and not exists (select from generation.changed_minutes as m where m.at = c.at);
  -- The wait for the next probe of Storage (see report_storage).
  update generation.limits as l set "storageRefused" = l."storageRefused" || jsonb_build_object('at', v_now, 'waitUntil',
      v_now + ((l."storageRefused" ->> 'waitUntil')::timestamptz - (l."storageRefused" ->> 'at')::timestamptz))
  where (l."storageRefused" ->> 'at')::timestamptz > v_now;
  select array_agg(a.id) into v_ids from (
    select q.id from generation.held_jobs as q
    where q."leaseExpiresAt" > v_now + generation.most_ahead('public.photo_generation_queue', 'leaseExpiresAt')
    order by q."leaseExpiresAt" desc limit p_limit for no key update skip locked
  ) as a;
  if v_ids is not null then
    update public.photo_generation_queue as q
    set "lockedAt" = least(q."lockedAt", v_now), "leaseExpiresAt" = v_now + least(
      q."leaseExpiresAt" - q."lockedAt", generation.most_ahead('public.photo_generation_queue', 'leaseExpiresAt'))
    where q.id = any (v_ids);
  end if;
  select array_agg(a.id) into v_ids from (
    select q.id from public.photo_generation_queue as q
    where q."waitingSince" > v_now
    order by q."waitingSince" desc limit p_limit for no key update skip locked
  ) as a;
  if v_ids is not null then
    update public.photo_generation_queue as q
    set "retryAt" = v_now + (q."retryAt" - q."waitingSince"), "waitingSince" = v_now
    where q.id = any (v_ids);
  end if;
end
$$;
