-- What an operator sets for all models or one: rates, caps, limits, pause; and the gates as they are. Refusals: PT400 (a parameter), PT409
-- (`gate_in_use`).

-- The gates and caps as they are: {gates: [{model, rate, burst, windowSeconds, allowed, learnedRate, learnedFrom,
-- epoch, blockedForSeconds, blockedUntil, closedBy, probeAt, probing, startedToday, dollarsToday}], imagesPerDay, dollarsPerDay,
-- userImagesQueued, userImagesPerDay, userDollarsPerDay, userImagesAllowed, spentToday, startedToday, maxRuns, maxAgeHours, allowAnonymous,
-- runs, pausedAt, pauseReason}; `rate` is in force, `allowed` the operator's. `closedBy` is why nothing may start (`paused`, `daily_cap`,
-- `rate_limited`), `probeAt` when a start beyond a stated value is tried next, `userImagesAllowed` what all daily limits together let one
-- user order. Safe to repeat: reads only.
create or replace function public.generation_gate() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  return (
    with gates as (
      select a.* from generation.gates as g cross join lateral generation.age_gate(g, generation.moment()) as a
    )
    select jsonb_build_object(
      'gates', (
        select coalesce(jsonb_agg(jsonb_build_object('model', g.model, 'rate', generation.gate_rate(g), 'allowed', g.rate,
          'burst', generation.burst(g), 'windowSeconds', g."windowSeconds", 'learnedRate', g."learnedRate",
          'learnedFrom', g."learnedFrom", 'epoch', g.epoch, 'startedToday', g."startedToday",
          'blockedForSeconds', round(greatest(extract(epoch from g."blockedUntil" - generation.moment()), 0)::numeric, 3),
          'blockedUntil', case when g."blockedUntil" > generation.moment() then g."blockedUntil" end,
          'closedBy', generation.gate_closed(g, generation.left_today(g), generation.horizon_seconds(g)) ->> 'reason',
          'probeAt', case when g."learnedFrom" = 'stated' then g."probeAt" end, 'probing', g."probedAt" is not null,
          'dollarsToday', g."startedToday" * generation.start_price(g))
          order by g.model), '[]') from gates as g),
      'spentToday', (select coalesce(sum(g."startedToday" * generation.start_price(g)), 0) from gates as g),
      'startedToday', (select coalesce(sum(g."startedToday"), 0) from gates as g),
      'runs', (select count(*) from generation.runs_at_once(generation.clock()))
    ) || (
      select jsonb_build_object('imagesPerDay', l."imagesPerDay", 'dollarsPerDay', l."dollarsPerDay",
        'userImagesQueued', l."userImagesQueued", 'userImagesPerDay', l."userImagesPerDay",
        'userDollarsPerDay', l."userDollarsPerDay", 'userImagesAllowed', generation.user_images_per_day(), 'maxRuns', l."maxRuns",
        'maxAgeHours', l."maxAgeHours", 'allowAnonymous', l."allowAnonymous", 'pausedAt', l."pausedAt", 'pauseReason', l."pauseReason")
      from generation.limits as l));
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
  v_gate := generation.lock_gate(p_model);
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
  perform generation.save_gate(generation.add_starts(v_gate, '{}', generation.moment()));
  return public.generation_gate();
end
$$;

-- Removes the gate of a model that is no longer used, with its learned rate and its settings. One that gave out a start
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
  delete from generation.gate_turns as t where t.model = p_model;
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
