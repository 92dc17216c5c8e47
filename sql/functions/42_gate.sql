-- The rate gate: one row per model says when the next call to Gemini may start, for all workers together.
-- Refusals: PT400 (a parameter), PT409 (`run_finished`). Being blocked, paused or at a cap is a value.
--
-- Starts are counted in a sliding window (see 40_window.sql). They are given out up to a horizon ahead, to runs that ask.

-- The time right now, also inside a transaction: what the gate compares with once it holds its lock.
-- Tests move it by replacing this function; nothing in production can.
create or replace function generation.moment() returns timestamptz
language plpgsql volatile set search_path = ''
as $$
begin
  return clock_timestamp();
end
$$;

-- Lets time pass for a gate, whose times a wrong clock may have set (see 39_clock.sql). A new day in California
-- starts its count anew. After a decrease with no stated value each quiet window
-- adds a twentieth of the operator's rate. A stated value stands until a probe has gone without a 429 for a horizon (see
-- probe_starts): then it was old, and twice the rate is tried, with the next probe as soon as a window has been filled at that
-- rate (the first horizon's starts are given out already).
create or replace function generation.age_gate(p_gate generation.gates, p_now timestamptz)
returns generation.gates
language plpgsql immutable set search_path = ''
as $$
declare
  v_today date := generation.quota_day(p_now);
  v_since timestamptz;
  v_windows integer;
  v_rate constant double precision := generation.gate_rate(p_gate);
begin
  p_gate := generation.gate_in_time(p_gate, p_now);
  v_since := greatest(p_gate."learnedAt", p_gate."blockedUntil");
  v_windows := greatest(floor(extract(epoch from p_now - v_since) / p_gate."windowSeconds"), 0);
  if p_gate.today is distinct from v_today then
    p_gate.today := v_today;
    p_gate."startedToday" := 0;
  end if;
  if p_gate."learnedFrom" = 'decrease' and v_windows > 0 then
    p_gate."learnedRate" := p_gate."learnedRate" + v_windows * greatest(p_gate.rate / 20, 1);
    p_gate."learnedAt" := v_since + make_interval(secs => v_windows * p_gate."windowSeconds");
    p_gate.limits := 0;
  elsif p_gate."probedAt" <= p_now - make_interval(secs => generation.horizon_seconds(p_gate)) then
    p_gate."learnedRate" := 2 * p_gate."learnedRate";
    p_gate."probeAt" := p_now + make_interval(secs => p_gate."windowSeconds" * 7 / 6);
    p_gate."probedAt" := null;
  end if;
  if p_gate."learnedRate" >= p_gate.rate then
    p_gate."learnedRate" := null;
    p_gate."learnedFrom" := null;
  end if;
  return case when generation.gate_rate(p_gate) = v_rate then p_gate else generation.add_starts(p_gate, '{}', p_now) end;
end
$$;

-- Notes the most starts of a span that no 429 followed; what is near the rate is enough.
create or replace function generation.note_proven(p_gate generation.gates, p_now timestamptz) returns generation.gates
language plpgsql immutable set search_path = ''
as $$
declare
  v_last constant timestamptz := least(generation.last_start(p_gate), p_now);
  v_proven integer;
begin
  if p_gate."provenStarts" >= floor(generation.gate_rate(p_gate) * 0.99)
    or p_gate."limitedAt" > v_last - make_interval(secs => generation.span_seconds(p_gate)) then
    return p_gate;
  end if;
  v_proven := generation.starts_counted(p_gate, v_last, v_last);
  if v_proven > p_gate."provenStarts" then
    p_gate."provenStarts" := v_proven;
    return generation.add_starts(p_gate, '{}', p_now);
  end if;
  return p_gate;
end
$$;

-- Locks the model's gate, making it if it is new, and lets time pass for it. Every change begins here.
create or replace function generation.lock_gate(p_model text) returns generation.gates
language plpgsql set search_path = ''
as $$
declare
  v_gate generation.gates;
begin
  if p_model is null or p_model !~ '^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$' then
    perform generation.refuse('400', 'bad_model', 'p_model names no model', 'Send a name like gemini-2.5-flash-image.');
  end if;
  insert into generation.gates (model) values (p_model) on conflict (model) do nothing;
  select * into v_gate from generation.gates as g where g.model = p_model for no key update;
  return generation.age_gate(v_gate, generation.moment());
end
$$;

-- Writes a gate back.
create or replace function generation.save_gate(p_gate generation.gates) returns void
language plpgsql set search_path = ''
as $$
begin
  update generation.gates as g
  set rate = p_gate.rate, burst = p_gate.burst, "windowSeconds" = p_gate."windowSeconds",
    "graceSeconds" = p_gate."graceSeconds", "learnedRate" = p_gate."learnedRate",
    "learnedFrom" = p_gate."learnedFrom", "learnedAt" = p_gate."learnedAt", "probeAt" = p_gate."probeAt",
    "probedAt" = p_gate."probedAt", "startTimes" = p_gate."startTimes", "startCounts" = p_gate."startCounts",
    "roomAt" = p_gate."roomAt", "paceAt" = p_gate."paceAt", "provenStarts" = p_gate."provenStarts", epoch = p_gate.epoch,
    "blockedUntil" = p_gate."blockedUntil",
    "limitedAt" = p_gate."limitedAt", limits = p_gate.limits, today = p_gate.today, "startedToday" = p_gate."startedToday"
  where g.model = p_gate.model;
end
$$;

-- What one image of a model costs; the dearest known for a model without a price.
create or replace function generation.image_price(p_model text) returns numeric
language plpgsql stable set search_path = ''
as $$
begin
  return coalesce(
    (select p.dollars from generation.prices as p where p.model = p_model),
    (select max(p.dollars) from generation.prices as p), 0);
end
$$;

-- What a start at a gate costs: an image of the model that answers there.
create or replace function generation.start_price(p_gate generation.gates) returns numeric
language plpgsql stable set search_path = ''
as $$
begin
  return generation.image_price(coalesce(p_gate."answeredBy", p_gate.model));
end
$$;

-- Counts a run's images for the models that made them (p_summary's `answeredBy`, [{model, images}]), so that the daily caps
-- take the price that is billed: their starts of today move to the gates of those models, and what the model that was
-- asked starts from now on costs as much as an image of the one that made most. What names no model or no number is left
-- out. The model that was asked gives up no more starts than it has counted today, which after midnight may be less.
-- Images beyond the one that a request asks for (`extraImages`) are paid for too, and count as starts of the model that was asked.
-- Locks: the gates by name; none for a run with one image an answer, all of the model that was asked, as nearly always.
create or replace function generation.count_answers(p_summary jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
  v_today constant date := generation.quota_day(generation.moment());
  v_asked constant text := p_summary ->> 'model';
  v_made constant numeric := case when jsonb_typeof(p_summary #> '{images,made}') = 'number'
    then (p_summary #>> '{images,made}')::numeric else 0 end;
  v_extra constant integer := case when jsonb_typeof(p_summary -> 'extraImages') = 'number'
    then least(greatest((p_summary ->> 'extraImages')::numeric, 0), 1000000)::integer else 0 end;
  v_answered jsonb;
  v_left integer;
  v_answer record;
begin
  select coalesce(jsonb_object_agg(a ->> 'model', greatest((a ->> 'images')::numeric, 0)), '{}') into v_answered
  from jsonb_path_query(p_summary, 'lax $.answeredBy[*] ? (@.images.type() == "number")') as a
  where a ->> 'model' ~ '^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$' and a ->> 'model' <> v_asked;
  if v_answered <> '{}' or v_extra > 0 then
    insert into generation.gates (model) select m from jsonb_object_keys(v_answered) as m order by m on conflict (model) do nothing;
    perform 1 from generation.gates as g
    where g.model = v_asked or g.model = any (array(select jsonb_object_keys(v_answered))) order by g.model for no key update;
    update generation.gates as g
    set "startedToday" = case when g.today = v_today then g."startedToday" else 0 end + v_extra, today = v_today
    where g.model = v_asked and v_extra > 0;
    select g."startedToday" into v_left from generation.gates as g where g.model = v_asked and g.today = v_today;
  end if;
  for v_answer in select a.key as model, a.value::numeric as images from jsonb_each(v_answered) as a order by a.key loop
    exit when coalesce(v_left, 0) <= 0;
    v_answer.images := floor(least(v_answer.images, v_left));
    v_left := v_left - v_answer.images;
    update generation.gates as g
    set "startedToday" = case when g.today = v_today then g."startedToday" else 0 end + v_answer.images, today = v_today
    where g.model = v_answer.model;
    update generation.gates as g set "startedToday" = v_left where g.model = v_asked;
  end loop;
  update generation.gates as g set "answeredBy" = most.model
  from (
    select a.key as model, a.value::numeric as images from jsonb_each(v_answered) as a
    union all
    select null, v_made - (select coalesce(sum(a.value::numeric), 0) from jsonb_each(v_answered) as a)
    order by images desc limit 1
  ) as most
  where g.model = v_asked and most.images > 0 and g."answeredBy" is distinct from most.model;
end
$$;

-- How many images may still be started today under the daily caps; null without a cap. p_gate's own count is
-- taken from p_gate, which its caller may have changed; the other models' from their rows.
create or replace function generation.left_today(p_gate generation.gates) returns integer
language plpgsql stable set search_path = ''
as $$
declare
  v_price constant numeric := generation.start_price(p_gate);
begin
  if not exists (select from generation.limits as l where l."imagesPerDay" is not null or l."dollarsPerDay" is not null) then
    return null;
  end if;
  return (
    select greatest(least(r.images, 2147483647), 0)::integer
    from generation.limits as l
    cross join lateral (
      select p_gate."startedToday" + coalesce(sum(g."startedToday"), 0) as images,
        p_gate."startedToday" * v_price + coalesce(sum(g."startedToday" * generation.start_price(g)), 0) as dollars
      from generation.gates as g
      where g.model <> p_gate.model and g.today = p_gate.today and g."startedToday" > 0
    ) as used
    cross join lateral (
      select least(l."imagesPerDay" - used.images, floor((l."dollarsPerDay" - used.dollars) / nullif(v_price, 0))) as images
    ) as r
    where r.images is not null);
end
$$;

-- Why nothing may start now and in how many seconds that may be different: {reason, seconds}; reason null when
-- something may. `paused` has no end of its own. p_left is left_today's answer; a wait of less than p_patience_seconds is no reason.
create or replace function generation.gate_closed(p_gate generation.gates, p_left integer, p_patience_seconds double precision)
returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_now timestamptz := generation.moment();
  v_paused boolean := exists (select from generation.limits as l where l."pausedAt" is not null);
  v_due timestamptz := generation.next_start(p_gate, v_now);
begin
  if v_paused then
    return '{"reason": "paused", "seconds": null}';
  elsif p_left <= 0 then
    return jsonb_build_object('reason', 'daily_cap', 'seconds',
      round(extract(epoch from generation.next_daily_reset(v_now) - v_now)::numeric, 3));
  elsif v_due > v_now + make_interval(secs => p_patience_seconds) then
    return jsonb_build_object('reason', 'rate_limited', 'seconds', round(extract(epoch from v_due - v_now)::numeric, 3));
  end if;
  return '{"reason": null, "seconds": 0}';
end
$$;

-- How many starts beyond the pace a gate may give now to see whether a stated value still holds: none, unless a probe is due, sixty
-- windows (an hour, of a per-minute quota) after Gemini stated the value or refused the last probe, and the span is full. Then as many
-- as exceed the value, which is one up to 60 a minute; what the merging of times may hide is allowed for. It costs one 429 an hour.
create or replace function generation.probe_starts(p_gate generation.gates, p_now timestamptz) returns integer
language plpgsql immutable set search_path = ''
as $$
declare
  v_rate constant double precision := generation.gate_rate(p_gate);
  v_span constant double precision := generation.span_seconds(p_gate)
    + case when v_rate * generation.cell_seconds(p_gate) > p_gate."windowSeconds" then generation.cell_seconds(p_gate) else 0 end;
begin
  if p_gate."learnedFrom" = 'stated' and p_gate."probedAt" is null and p_gate."probeAt" <= p_now
    and (p_gate."blockedUntil" > p_now) is not true
    and generation.starts_counted(p_gate, p_now, p_now) >= floor(v_rate * 0.99) then
    return greatest(ceil(v_rate) + 1 - ceil(v_rate * p_gate."windowSeconds" / v_span), 1);
  end if;
  return 0;
end
$$;

-- Gives a run up to p_slots starts of a model, at most one horizon ahead (a sixth of the window: 10 s) and within
-- the run, so that a run that dies loses no more; none later than p_within_seconds from now, after which the run
-- starts nothing more, so that no run takes starts along into its end. p_users is an array of the ids of the users for
-- whom the run wants them, who share the starts with those of other runs (see 41_turns.sql); null, the default, is a user
-- of the run's own. Returns {slots: [seconds from now, ascending], graceSeconds, horizonSeconds, epoch, reason,
-- nextInSeconds, askAgainInSeconds, runsOfUsers}: with no slots, why (`rate_limited`, `daily_cap`, `paused`), and when the gate's next
-- start is. Before askAgainInSeconds this run will get none, unless the rate rises or others that wait have gone.
-- runsOfUsers has in how many runs each of p_users waits (without them {run id: 1}): the run divides its starts in inverse proportion to
-- that. The caller counts from the moment it has the answer; a start is void graceSeconds after its time, or when a later answer
-- carries another epoch.
-- Errors: PT400, PT409 (`run_finished`). Locks: the gate, the run, then the caps if there are any.
-- Not repeated by the worker: an answer that is lost costs its slots and nothing else.
create or replace function public.take_start_slots(
  p_run_id uuid, p_model text, p_slots integer, p_within_seconds double precision default null, p_users jsonb default null
) returns jsonb
language plpgsql security definer set search_path = '' set lock_timeout = '5s'
as $$
declare
  v_gate generation.gates;
  v_line record;
  v_turn generation.gate_turns;
  v_now timestamptz;
  v_ends timestamptz;
  v_horizon double precision;
  v_latest timestamptz;
  v_left integer;
  v_starts timestamptz[];
  v_most integer;
  v_probe integer := 0;
  v_closed jsonb;
begin
  perform generation.require_service();
  if p_slots is null or p_slots not between 1 and 1000 then
    perform generation.refuse('400', 'out_of_range', 'p_slots must be from 1 to 1000', 'Ask for the images that wait.');
  end if;
  if jsonb_typeof(p_users) <> 'array' or p_users = '[]' or p_users @? '$[*] ? (@.type() != "string")' then
    perform generation.refuse('400', 'wrong_type', 'p_users must be an array of user ids', 'Send ["…"], or leave it out.');
  end if;
  v_gate := generation.lock_gate(p_model);
  perform generation.record_heartbeat(p_run_id);
  select r."endsBy" into v_ends from generation.runs as r where r.id = p_run_id and r."finishedAt" is null;
  if not found then
    perform generation.refuse('409', 'run_finished', 'this run has been finished, or never claimed anything', 'Start a new run.');
  end if;
  -- The daily caps are for all models together: while there is one, takers of different gates go in turn.
  perform 1 from generation.limits as l
  where l."imagesPerDay" is not null or l."dollarsPerDay" is not null for no key update;
  v_now := generation.moment();
  v_horizon := generation.horizon_seconds(v_gate);
  v_latest := least(v_now + make_interval(secs => least(v_horizon, p_within_seconds)), v_ends);
  v_left := generation.left_today(v_gate);
  v_closed := generation.gate_closed(v_gate, v_left, v_horizon);
  v_most := case when v_closed ->> 'reason' is null then least(p_slots, v_left) else 0 end;
  if v_most > 0 then
    v_gate := generation.note_proven(v_gate, v_now);
    v_probe := generation.probe_starts(v_gate, v_now);
    if v_probe between 1 and v_most then
      v_gate."probedAt" := v_now;
    else
      v_probe := 0;
    end if;
  end if;
  v_line := generation.place_in_line(v_gate, p_run_id, p_slots, p_users, v_now);
  v_starts := generation.starts_in_turn(v_line.turn, v_gate, v_most - v_probe, v_now, v_latest);
  if v_starts <> '{}' then
    v_gate := generation.add_starts(v_gate, v_starts, v_now);
  end if;
  v_starts := array_fill(v_now, array[v_probe]) || v_starts;
  v_gate."startedToday" := v_gate."startedToday" + cardinality(v_starts);
  v_turn := generation.save_place(v_line.turn, v_gate, cardinality(v_starts), v_now);
  perform generation.save_gate(v_gate);
  return jsonb_build_object(
    'slots', (
      select coalesce(jsonb_agg(round(extract(epoch from t.at - v_now)::numeric, 6) order by t.at), '[]') from unnest(v_starts) as t (at)),
    'graceSeconds', v_gate."graceSeconds", 'horizonSeconds', v_horizon, 'epoch', v_gate.epoch,
    'reason', case when cardinality(v_starts) = 0 then coalesce(v_closed ->> 'reason', 'rate_limited') end,
    'nextInSeconds', case when v_closed ->> 'reason' in ('paused', 'daily_cap') then (v_closed ->> 'seconds')::numeric
      else round(extract(epoch from generation.next_start(v_gate, v_now) - v_now)::numeric, 3) end,
    'askAgainInSeconds', generation.ask_again_seconds(v_turn), 'runsOfUsers', v_line.runs_of_users);
end
$$;
