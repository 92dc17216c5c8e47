-- What a 429 teaches a gate. Quiet time and probes, which take it back, are in age_gate and probe_starts.
-- Refusals: PT400 (the facts).

-- Tells the gate of a 429. p_facts is {period: `minute`, `day` or `unknown`, retryAfterSeconds, limit}; p_epoch
-- the epoch of the start under which the call was made. A 429 of an older epoch is old news and changes nothing.
--   day                   blocked until the quota's reset at midnight Pacific
--   minute, a new limit   the rate becomes that limit, blocked as long as Gemini says
--   minute, known limit   (or one above the operator's rate) the first takes the place of the next start, a second
--                         within the window blocks
--   unknown               the rate falls to 70 %, blocked 2, 4, 8 … s with jitter, at most a window
-- Returns {epoch, rate, blockedForSeconds}. Errors: PT400. Locks: the gate.
-- Not repeated by the worker: without an epoch that has moved, a second telling counts as a second 429, which
-- blocks where a push would have done: slower for one delay, and nothing else.
create or replace function public.report_rate_limit(p_model text, p_facts jsonb, p_epoch bigint) returns jsonb
language plpgsql security definer set search_path = '' set lock_timeout = '5s'
as $$
declare
  v_gate generation.gates;
  v_now timestamptz;
begin
  perform generation.require_service();
  v_gate := generation.lock_gate(p_model);
  v_now := generation.moment();
  if coalesce(p_facts ->> 'period', '') not in ('minute', 'day', 'unknown') then
    perform generation.refuse('400', 'bad_facts', 'p_facts.period must be minute, day or unknown', 'Send {"period": …}.');
  end if;
  if p_epoch is null or p_epoch = v_gate.epoch then
    v_gate := generation.learn(v_gate, p_facts, v_now);
    perform generation.save_gate(v_gate);
  end if;
  return jsonb_build_object('epoch', v_gate.epoch, 'rate', generation.gate_rate(v_gate), 'blockedForSeconds',
    round(greatest(extract(epoch from v_gate."blockedUntil" - v_now), 0)::numeric, 3));
end
$$;

-- The gate after a 429; see report_rate_limit.
create or replace function generation.learn(p_gate generation.gates, p_facts jsonb, p_now timestamptz)
returns generation.gates
language plpgsql volatile set search_path = ''
as $$
declare
  v_limit numeric := (p_facts ->> 'limit')::numeric;
  v_wait double precision := coalesce((p_facts ->> 'retryAfterSeconds')::double precision, p_gate."windowSeconds");
  v_until timestamptz;
  v_next_probe timestamptz := p_now + make_interval(secs => 60 * p_gate."windowSeconds");
  v_even constant interval := make_interval(secs => generation.even_seconds(p_gate));
  v_recent boolean := p_gate."limitedAt" > p_now - make_interval(secs => p_gate."windowSeconds");
begin
  p_gate."limitedAt" := p_now;
  if p_gate."probedAt" is not null then
    p_gate."probedAt" := null;
    p_gate."probeAt" := v_next_probe;
  end if;
  if p_facts ->> 'period' = 'day' then
    v_until := generation.next_daily_reset(p_now);
  elsif p_facts ->> 'period' = 'minute' and v_limit >= 1 and least(v_limit, p_gate.rate) <> generation.gate_rate(p_gate) then
    p_gate."learnedRate" := v_limit;
    p_gate."learnedFrom" := 'stated';
    p_gate."learnedAt" := p_now;
    p_gate."provenStarts" := least(v_limit, p_gate.rate);
    p_gate."probeAt" := v_next_probe;
  elsif p_facts ->> 'period' = 'minute' and not coalesce(v_recent, false) then
    return generation.add_starts(p_gate, array[greatest(generation.last_start(p_gate) + v_even, p_now)], p_now);
  elsif p_facts ->> 'period' = 'unknown' then
    p_gate."learnedRate" := greatest(generation.gate_rate(p_gate) * 0.7, 1);
    p_gate."learnedFrom" := 'decrease';
    p_gate."learnedAt" := p_now;
    p_gate."provenStarts" := 0;
    p_gate.limits := p_gate.limits + 1;
    v_wait := greatest(coalesce((p_facts ->> 'retryAfterSeconds')::double precision, 0),
      least(2 ^ least(p_gate.limits, 10), p_gate."windowSeconds") * (0.5 + random() / 2));
  end if;
  p_gate."blockedUntil" := greatest(
    p_gate."blockedUntil", coalesce(v_until, p_now + make_interval(secs => least(v_wait, 86400))));
  p_gate.epoch := p_gate.epoch + 1;
  return generation.drop_blocked_starts(p_gate, p_now);
end
$$;

-- Forgets the starts that were given out for a time that is now blocked: the new epoch makes them void, and Gemini would refuse them.
-- The time of a start that has come may be up to a 256th of a window ahead, that of the last one it was merged with.
create or replace function generation.drop_blocked_starts(p_gate generation.gates, p_now timestamptz) returns generation.gates
language plpgsql immutable set search_path = ''
as $$
declare
  v_come constant timestamptz := p_now + make_interval(secs => generation.cell_seconds(p_gate));
begin
  select coalesce(array_agg(t.at order by t.at), '{}'), coalesce(array_agg(t.starts order by t.at), '{}')
  into p_gate."startTimes", p_gate."startCounts"
  from unnest(p_gate."startTimes", p_gate."startCounts") as t (at, starts)
  where t.at <= v_come or t.at >= p_gate."blockedUntil";
  return generation.add_starts(p_gate, '{}', p_now);
end
$$;
