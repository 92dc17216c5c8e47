-- The window of a rate gate: which start may come when, so that no window sees more of them than the rate.
--
-- A start is good for the grace and void after it, so it may reach Gemini that much late. With a span of the window and the
-- grace, two rules give the next start, where `rate` and the starts that are counted are those of one span:
--   limit  a start comes a span or more after the one that was `rate` starts before it;
--   pace   while fewer than half of the rate are counted, a start comes at once. After that it comes at the least interval at
--          which a whole span of starts could follow the last one without ever waiting for the limit.
-- So an order of half the quota starts at once in an idle queue, once a span of that rate has passed without a 429 (see burst). The
-- interval after that is at most twice the even one, span / rate, and each start that keeps it leaves the next interval equal or shorter,
-- but for the merging below, down to the even one: nobody waits for a span to end. After a change to a lower rate the next start waits
-- until the span holds fewer than that.
--
-- A gate keeps the starts of its last span: times and, beside them, how many. Those within one 256th of a window are kept as if
-- all had been given with the last of them, so that the list is bounded at any rate; that costs at most 0.4 % of the rate. It also
-- keeps what the rules make of them, so that a question that gets nothing costs nothing.

-- How long a start counts, in seconds: the window, and the grace by which the start may come late.
create or replace function generation.span_seconds(p_gate generation.gates) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return p_gate."windowSeconds" + p_gate."graceSeconds";
end
$$;

-- How far ahead starts are given out, in seconds: a run that dies loses no more of them.
create or replace function generation.horizon_seconds(p_gate generation.gates) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return p_gate."windowSeconds" / 6;
end
$$;

-- How far apart starts are that a gate keeps by themselves, in seconds.
create or replace function generation.cell_seconds(p_gate generation.gates) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return p_gate."windowSeconds" / 256;
end
$$;

-- The rate in force, in starts per window: what the operator allows, or less if Gemini taught less.
create or replace function generation.gate_rate(p_gate generation.gates) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return greatest(least(p_gate.rate, coalesce(p_gate."learnedRate", p_gate.rate)), 1)::double precision;
end
$$;

-- The even interval between starts, in seconds.
create or replace function generation.even_seconds(p_gate generation.gates) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return ceil(generation.span_seconds(p_gate) / floor(generation.gate_rate(p_gate)) * 1e6) / 1e6;
end
$$;

-- When the last start that was given out is; null before the first.
create or replace function generation.last_start(p_gate generation.gates) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
begin
  return p_gate."startTimes"[cardinality(p_gate."startTimes")];
end
$$;

-- How many starts lie within the span that ends at p_at, with those given out for later, up to p_until.
create or replace function generation.starts_counted(
  p_gate generation.gates, p_at timestamptz, p_until timestamptz default 'infinity'
) returns integer
language plpgsql immutable set search_path = ''
as $$
declare
  v_since constant timestamptz := p_at - make_interval(secs => generation.span_seconds(p_gate));
begin
  return (
    select coalesce(sum(t.starts), 0)::integer
    from unnest(p_gate."startTimes", p_gate."startCounts") as t (at, starts)
    where t.at > v_since and t.at <= p_until);
end
$$;

-- How many starts of a span may come at once: half of the rate, or the operator's burst. A rate may be too high, so without the
-- operator's word no more than half of what has been seen to pass, but five.
create or replace function generation.burst(p_gate generation.gates) returns integer
language plpgsql immutable set search_path = ''
as $$
declare
  v_rate constant double precision := generation.gate_rate(p_gate);
begin
  return least(floor(v_rate), coalesce(p_gate.burst, least(ceil(v_rate / 2), greatest(ceil(p_gate."provenStarts" / 2.0), 5))));
end
$$;

-- From when on starts may come at once. For a window after a 429 and its block they may not.
create or replace function generation.room_at(p_gate generation.gates) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
begin
  return greatest(p_gate."roomAt",
    greatest(p_gate."limitedAt", p_gate."blockedUntil") + make_interval(secs => p_gate."windowSeconds"));
end
$$;

-- How many starts may come together at a time when one may.
create or replace function generation.starts_at_once(p_gate generation.gates, p_at timestamptz) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  if p_at < generation.room_at(p_gate) then
    return 1;
  end if;
  return greatest(generation.burst(p_gate) - generation.starts_counted(p_gate, p_at), 1);
end
$$;

-- When the next start may come, from p_now on.
create or replace function generation.next_start(p_gate generation.gates, p_now timestamptz) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
declare
  v_open constant timestamptz := greatest(p_now, p_gate."blockedUntil");
begin
  return case when v_open >= generation.room_at(p_gate) then v_open else greatest(v_open, p_gate."paceAt") end;
end
$$;

-- Adds starts to those that a gate keeps, drops what no longer counts at p_now, but for the last one, and finds out anew when the next
-- may come: at once from `roomAt` on (see room_at), and otherwise at
-- `paceAt`. That is an interval after the last one. The start i places on may come
-- when the one `rate` places before it is a span old; the interval is the least with which none of the next `rate` starts is too early.
-- To be called whenever the rate, the burst, the window, the grace or what is proven has changed, too. p_counts says how many starts
-- there are at each of the times p_starts; where it says nothing, there is one.
create or replace function generation.add_starts(
  p_gate generation.gates, p_starts timestamptz[], p_now timestamptz, p_counts integer[] default '{}'
) returns generation.gates
language plpgsql immutable set search_path = ''
as $$
declare
  v_rate constant double precision := floor(generation.gate_rate(p_gate));
  v_span constant interval := make_interval(secs => generation.span_seconds(p_gate));
  v_burst constant integer := generation.burst(p_gate);
  v_cell_seconds constant double precision := generation.cell_seconds(p_gate);
  v_last timestamptz;
begin
  if p_starts = '{}' and p_gate."startTimes" = '{}' then
    p_gate."roomAt" := '-infinity';
    p_gate."paceAt" := '-infinity';
    return p_gate;
  end if;
  v_last := greatest(generation.last_start(p_gate), p_starts[cardinality(p_starts)]);
  select array_agg(c.at order by c.at), array_agg(c.starts order by c.at),
    coalesce(max(c.at) filter (where c.upto >= v_burst) + v_span, p_now),
    v_last + make_interval(secs => ceil(max(
      extract(epoch from c.at - v_last + v_span) / (greatest(v_rate - c.upto, 0) + 1)
    ) filter (where c.upto - c.starts < v_rate) * 1e6) / 1e6)
  into p_gate."startTimes", p_gate."startCounts", p_gate."roomAt", p_gate."paceAt"
  from (
    select max(t.at) as at, sum(t.starts)::integer as starts, sum(sum(t.starts)) over (order by max(t.at) desc) as upto
    from (
      select k.at, k.starts from unnest(p_gate."startTimes", p_gate."startCounts") as k (at, starts)
      union all
      select n.at, coalesce(n.starts, 1) from unnest(p_starts, p_counts) as n (at, starts)
    ) as t
    where t.at > p_now - v_span or t.at = v_last
    group by floor(extract(epoch from t.at) / v_cell_seconds)
  ) as c;
  return p_gate;
end
$$;

-- The starts that a gate can give now, up to p_most and none later than p_latest: those at once, then one at each interval.
create or replace function generation.starts_to_give(
  p_gate generation.gates, p_most integer, p_now timestamptz, p_latest timestamptz
) returns timestamptz[]
language plpgsql immutable set search_path = ''
as $$
declare
  v_next constant timestamptz := generation.next_start(p_gate, p_now);
  v_starts timestamptz[];
  v_interval interval;
begin
  if p_most < 1 or v_next > p_latest then
    return '{}';
  end if;
  v_starts := array_fill(v_next, array[least(p_most, generation.starts_at_once(p_gate, v_next))]);
  v_interval := (generation.add_starts(p_gate, array[v_next], p_now, array[cardinality(v_starts)]))."paceAt" - v_next;
  return v_starts || array(
    select v_next + i * v_interval
    from generate_series(1, least(p_most - cardinality(v_starts),
      floor(extract(epoch from p_latest - v_next) / extract(epoch from v_interval)))::integer) as i);
end
$$;

-- How many starts a gate can give within the next p_seconds, about: those at once and then those of the pace, or, over several spans,
-- the rate less what is counted.
create or replace function generation.starts_within(p_gate generation.gates, p_seconds double precision, p_now timestamptz)
returns double precision
language plpgsql immutable set search_path = ''
as $$
declare
  v_next constant timestamptz := generation.next_start(p_gate, p_now);
  v_at_once constant integer := generation.starts_at_once(p_gate, v_next);
  v_seconds constant double precision := p_seconds - extract(epoch from v_next - p_now);
  v_interval constant double precision := extract(epoch from
    (generation.add_starts(p_gate, array[v_next], p_now, array[v_at_once]))."paceAt" - v_next);
begin
  if v_seconds < 0 then
    return 0;
  end if;
  return greatest(v_at_once + floor(v_seconds / v_interval),
    floor(v_seconds / generation.even_seconds(p_gate)) - generation.starts_counted(p_gate, v_next));
end
$$;
