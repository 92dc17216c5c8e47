-- Runs that wait for starts at a gate take turns, so that users share the starts, and no run asks again and again.
--
--   line      A run that asks stands in line, with how many images of which users, until it is absent. Fair queueing orders the line:
--             the run comes first that has been given least for its weight while it waited. A new run comes before all of these, and so
--             does one with a user whom it did not name when it last asked.
--   weight    A run counts as much as its users: each is one, shared by the runs in which that user waits. All runs together count as
--             many as they are. Each answer tells the run in how many runs its users wait, by which it divides its starts between them.
--   turn      While others wait, a turn is the run's weight times the starts of a fifth of the horizon, one at least and five at most. So a
--             run that counts more need not come more often, which it cannot while it uses the starts it has.
--   time      Each answer tells the run when its turn can have come: when those before it have been given what they wait for. Starts are
--             given half a horizon ahead while others wait. A run that comes at its time gets its turn even if others have come first
--             meanwhile, up to a whole horizon ahead. If its time is far, it asks every 80 s until then.
--   absence   A run that has not come half a horizon after its time no longer counts, until it asks again. What it leaves is given to
--             whoever asks. A run that has ended, or has not asked for 90 s, is forgotten.
--   no line   While nobody else waits, a run gets whatever the gate can give, a horizon ahead. A start whose time has come goes to
--             whoever asks, and one that comes within half of the lead to the run whose turn it is: those who wait for it are late.
-- All of this happens under the gate's lock.

-- How many starts a turn of a run of this weight is.
create or replace function generation.turn_starts(p_gate generation.gates, p_weight double precision) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  return least(greatest(round(p_weight * generation.horizon_seconds(p_gate) / 5 / generation.even_seconds(p_gate)), 1), 5);
end
$$;

-- How far ahead starts are given while others wait, and how much later than at its time a run may come.
create or replace function generation.turn_lead(p_gate generation.gates) returns interval
language plpgsql immutable set search_path = ''
as $$
begin
  return make_interval(secs => generation.horizon_seconds(p_gate) / 2);
end
$$;

-- In how many seconds a run has to ask again: at its turn, but after 80 s at most, since the rate may have changed meanwhile and a run
-- that is silent for 90 s counts as dead.
create or replace function generation.ask_again_seconds(p_turn generation.gate_turns) returns double precision
language plpgsql immutable set search_path = ''
as $$
begin
  return ceil(least(extract(epoch from p_turn."turnAt" - p_turn."heardAt"), 80) * 1000) / 1000;
end
$$;

-- A run whose turn was before this time, and that has not come, is absent.
create or replace function generation.absent_before(p_gate generation.gates, p_now timestamptz) returns timestamptz
language plpgsql immutable set search_path = ''
as $$
begin
  return p_now - generation.turn_lead(p_gate);
end
$$;

-- How many starts the next turns of the other runs in line are, and how many of theirs come before p_turn's turn: whole turns of each,
-- up to the images that wait. Of two at the same place the one comes first that was told the earlier time.
create or replace function generation.others_in_line(
  p_turn generation.gate_turns, p_gate generation.gates, p_now timestamptz, out turns integer, out before integer
)
language plpgsql stable set search_path = ''
as $$
declare
  v_absent_before constant timestamptz := generation.absent_before(p_gate, p_now);
  v_fifth constant double precision := generation.horizon_seconds(p_gate) / 5 / generation.even_seconds(p_gate);
begin
  -- `starts` are turn_starts, which would take most of the time if it were called for each of many runs.
  select coalesce(sum(least(t.images, s.starts)), 0),
    coalesce(sum(least(t.images, greatest(round((p_turn.tag - t.tag) * t.weight / s.starts), 1) * s.starts))
      filter (where t.tag < p_turn.tag or (t.tag = p_turn.tag and (t."turnAt" < p_turn."turnAt") is not false)), 0)
  into turns, before
  from generation.gate_turns as t cross join lateral (select least(greatest(round(t.weight * v_fifth), 1), 5) as starts) as s
  where t.model = p_turn.model and t."runId" <> p_turn."runId" and t."turnAt" > v_absent_before;
end
$$;

-- The run's place in line, as it asks for p_images starts now, and in how many waiting runs each of its users waits, {user: runs}. p_users
-- names those the images are for; without them the run counts as a user of its own. Users are kept as hashes. Also forgets runs of which
-- nothing has been heard, and those that a wrong clock has put into the future.
create or replace function generation.place_in_line(
  p_gate generation.gates, p_run_id uuid, p_images integer, p_users jsonb, p_now timestamptz,
  out turn generation.gate_turns, out runs_of_users jsonb
)
language plpgsql set search_path = ''
as $$
declare
  v_turn generation.gate_turns;
  v_names constant jsonb := coalesce(p_users, jsonb_build_array(p_run_id));
  v_users constant integer[] := array(select distinct hashtext(u.name) from jsonb_array_elements_text(v_names) as u (name));
  v_absent_before constant timestamptz := generation.absent_before(p_gate, p_now);
  v_runs integer;
  v_hashes integer[];
  v_first double precision;
  v_new double precision;
begin
  delete from generation.gate_turns as t
  where t.model = p_gate.model and t."heardAt" not between p_now - interval '90 s' and p_now;
  select t.* into v_turn from generation.gate_turns as t where t.model = p_gate.model and t."runId" = p_run_id;
  select coalesce(min(t.tag) filter (where t."turnAt" > v_absent_before), max(t.tag), 0),
    min(t.tag) filter (where t."turnAt" > v_absent_before and t.served) - 1
  into v_first, v_new from generation.gate_turns as t where t.model = p_gate.model and t."runId" <> p_run_id;
  v_turn.model := p_gate.model;
  v_turn."runId" := p_run_id;
  v_turn.tag := case
    when v_turn.users @> v_users is not true then coalesce(v_new, v_first)
    when v_turn."turnAt" > v_absent_before then v_turn.tag
    else greatest(v_turn.tag, v_first)
  end;
  v_turn.served := coalesce(v_turn.served, false);
  v_turn.images := p_images;
  v_turn.users := v_users;
  select count(distinct t."runId"), coalesce(array_agg(u.hash), '{}') into v_runs, v_hashes
  from generation.gate_turns as t cross join unnest(t.users) as u (hash)
  where t.model = p_gate.model and t."runId" <> p_run_id and t."turnAt" > v_absent_before;
  runs_of_users := (
    select jsonb_object_agg(u.name, 1 + cardinality(array_positions(v_hashes, hashtext(u.name))))
    from jsonb_array_elements_text(v_names) as u (name));
  v_turn.weight := (1.0::double precision + v_runs) / (select count(distinct u.hash) from unnest(v_hashes || v_users) as u (hash))
    * (select sum(1.0::double precision / r.runs::integer) from jsonb_each_text(runs_of_users) as r (name, runs));
  v_turn."heardAt" := p_now;
  turn := v_turn;
end
$$;

-- The starts that a run gets now, up to p_most and none later than p_latest.
create or replace function generation.starts_in_turn(
  p_turn generation.gate_turns, p_gate generation.gates, p_most integer, p_now timestamptz, p_latest timestamptz
) returns timestamptz[]
language plpgsql stable set search_path = ''
as $$
declare
  v_turn_starts constant integer := generation.turn_starts(p_gate, p_turn.weight);
  v_lead constant interval := generation.turn_lead(p_gate);
  v_others record;
  v_open timestamptz[];
  v_due integer;
  v_soon integer;
  v_near integer;
begin
  select * into v_others from generation.others_in_line(p_turn, p_gate, p_now);
  if v_others.turns = 0 then
    return generation.starts_to_give(p_gate, p_most, p_now, p_latest);
  end if;
  v_open := generation.starts_to_give(p_gate, p_most + greatest(v_others.before, v_others.turns), p_now, p_latest);
  select count(*) filter (where o.at <= p_now), count(*) filter (where o.at <= p_now + v_lead / 2),
    count(*) filter (where o.at <= p_now + v_lead)
  into v_due, v_soon, v_near from unnest(v_open) as o (at);
  return v_open[1:least(p_most, greatest(v_due, least(v_near - v_others.before, v_turn_starts), v_near - v_others.turns,
    case when p_turn."turnAt" <= p_now then greatest(v_turn_starts, v_soon) else 0 end))];
end
$$;

-- Saves a run's place in line after it was given p_given starts, and finds out when its next turn can have come.
create or replace function generation.save_place(
  p_turn generation.gate_turns, p_gate generation.gates, p_given integer, p_now timestamptz
) returns generation.gate_turns
language plpgsql set search_path = ''
as $$
declare
  v_next constant timestamptz := generation.next_start(p_gate, p_now);
  v_interval constant interval := make_interval(secs => generation.even_seconds(p_gate));
  v_others record;
begin
  if p_given > 0 then
    p_turn.served := true;
    p_turn.tag := p_turn.tag + p_given / p_turn.weight;
    p_turn."turnAt" := null;
  end if;
  select * into v_others from generation.others_in_line(p_turn, p_gate, p_now);
  p_turn."turnAt" := least(p_now + interval '1 day', greatest(p_now, case
    when v_others.turns = 0 then v_next - make_interval(secs => generation.horizon_seconds(p_gate))
    else v_next - generation.turn_lead(p_gate) + v_others.before * v_interval
  end));
  insert into generation.gate_turns select (p_turn).*
  on conflict (model, "runId") do update set images = excluded.images, users = excluded.users, weight = excluded.weight,
    tag = excluded.tag, served = excluded.served, "turnAt" = excluded."turnAt", "heardAt" = excluded."heardAt";
  return p_turn;
end
$$;
