-- What is known of Gemini's models: prices, announced ends, successors. Rows of generation.models and generation.prices, which
-- an operator corrects with `update`. Refusals: PT400 (a parameter).

-- How many days before an announced end the warnings begin.
create or replace function generation.end_warning_days() returns integer
language sql immutable set search_path = ''
as $$ select 60 $$;

-- The models that have replaced p_model, in order; empty while Google has it. A cycle, which only a person can have written, counts as
-- none: then a run asks p_model itself, and reports what is wrong.
create or replace function generation.successors(p_model text) returns text[]
language plpgsql stable set search_path = ''
as $$
declare
  v_chain text[] := '{}';
  v_next text;
begin
  loop
    select m.successor into v_next from generation.models as m where m.model = coalesce(v_chain[cardinality(v_chain)], p_model);
    exit when v_next is null;
    if v_next = p_model or v_next = any (v_chain) then
      return '{}';
    end if;
    v_chain := v_chain || v_next;
  end loop;
  return v_chain;
end
$$;

-- Whether p_model is p_next or one of the models that have replaced it, even if they form a cycle.
create or replace function generation.leads_back(p_next text, p_model text) returns boolean
language sql stable set search_path = ''
as $$
  with recursive chain as (
    select p_next as model
    union
    select m.successor from chain as c join generation.models as m on m.model = c.model where m.successor is not null
  )
  select exists (select from chain as c where c.model = p_model)
$$;

-- The model that a worker that asks for p_model uses now: the last of its successors, or itself.
create or replace function generation.current_model(p_model text) returns text
language plpgsql stable set search_path = ''
as $$
declare
  v_chain constant text[] := generation.successors(p_model);
begin
  return coalesce(v_chain[cardinality(v_chain)], p_model);
end
$$;

-- The model that is expected to have replaced p_model by p_today: follows the remembered successors, or else the announced ones, and skips
-- models that are gone or whose announced end has come. Null where none is known.
create or replace function generation.expected_successor(p_model text, p_today date) returns text
language plpgsql stable set search_path = ''
as $$
declare
  v_seen text[] := array[p_model];
  v_row generation.models;
  v_next text;
begin
  select * into v_row from generation.models as m where m.model = p_model;
  loop
    v_next := coalesce(v_row.successor, v_row."announcedSuccessor");
    if v_next is null or v_next = any (v_seen) then
      return nullif(v_seen[cardinality(v_seen)], p_model);
    end if;
    v_seen := v_seen || v_next;
    select * into v_row from generation.models as m where m.model = v_next;
    exit when not found or (v_row.successor is null and (v_row."announcedEnd" > p_today) is not false);
  end loop;
  return v_next;
end
$$;

-- Both prices in words, for the person who has to know that images now cost something else.
create or replace function generation.price_note(p_before text, p_after text) returns text
language sql stable set search_path = ''
as $$
  select coalesce(
    (select format('an image costs $%s instead of $%s', round(a.dollars, 4)::float8, round(b.dollars, 4)::float8)
      from generation.prices as b, generation.prices as a where b.model = p_before and a.model = p_after),
    format('check the price of an image of %s', p_after))
$$;

-- That a model's announced end is near or past, in words; null while it is not.
create or replace function generation.end_warning(p_model generation.models, p_today date) returns text
language sql stable set search_path = ''
as $$
  select format('%s %s to end on %s, %s; %s', p_model.model, case when d.days < 0 then 'was announced' else 'is announced' end,
    p_model."announcedEnd", case when d.days < 0 then format('%s days ago', -d.days) else format('in %s days', d.days) end,
    case when d.successor is null then 'no successor is known'
      else format('then %s: %s', d.successor, generation.price_note(p_model.model, d.successor)) end)
  from (
    select p_model."announcedEnd" - p_today as days, generation.expected_successor(p_model.model, p_today) as successor
  ) as d
  where d.days <= generation.end_warning_days()
$$;

-- Every known model: {model, dollars, announcedEnd, announcedSuccessor, source, asOf, successor, retiredSince, expectedSuccessor,
-- inUse, endsInDays, warning}. `successor` is the next model to try; `retiredSince`, when a worker changed over because Google
-- answered 404. In use is what started or made an image within a week. `warning` says that the announced end is at most 60 days
-- away, or past.
create or replace function generation.models_known(p_now timestamptz) returns table (
  model text, dollars numeric, "announcedEnd" date, "announcedSuccessor" text, source text, "asOf" date, successor text,
  "retiredSince" timestamptz, "expectedSuccessor" text, "inUse" boolean, "endsInDays" integer, warning text
)
language sql stable set search_path = ''
as $$
  with today as (
    select (p_now at time zone 'UTC')::date as date
  ), named as (
    select m.model from generation.models as m union select p.model from generation.prices as p
    union select g.model from generation.gates as g
  )
  select n.model, p.dollars, m."announcedEnd", m."announcedSuccessor", m.source, m."asOf",
    coalesce(m.successor, m."announcedSuccessor"), case when m.successor is not null then m."successorSince" end,
    generation.expected_successor(n.model, t.date),
    exists (select from generation.gates as g where g.model = n.model and g."startedToday" > 0 and g.today >= t.date - 7)
      or coalesce((
        select f."createdAt" from public.photo_generation_photos as f where f.model = n.model order by f."createdAt" desc limit 1
      ) > p_now - interval '7 days', false),
    m."announcedEnd" - t.date, generation.end_warning(m, t.date)
  from named as n cross join today as t
  left join generation.models as m on m.model = n.model
  left join generation.prices as p on p.model = n.model
$$;

-- What is known of the models: {models: [as models_known has them]}, by name. Safe to repeat: reads only.
create or replace function public.generation_models() returns jsonb
language plpgsql stable security definer set search_path = '' set timezone = 'UTC'
as $$
begin
  perform generation.require_service();
  return (
    select jsonb_build_object('models', coalesce(jsonb_agg(to_jsonb(k) order by k.model), '[]'))
    from generation.models_known(generation.clock()) as k);
end
$$;

-- Remembers that Google has answered 404 for a model, so that later runs ask its successor at once. That is p_successor if the operator
-- named one, else the remembered one, else the announced one. Returns {model, successor, reason, note}: the model to use now, which
-- may be a successor's own successor, and both prices in words. If there is none, successor is null, reason is `no_successor`,
-- or `cycle` if the successors lead back to p_model, and nothing is remembered.
-- Errors: PT400. Locks: the model's row. Safe to repeat: the second time it is remembered already.
create or replace function public.retire_generation_model(p_model text, p_successor text default null) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_row generation.models;
  v_next text;
begin
  perform generation.require_service();
  if p_model is null then
    perform generation.refuse('400', 'bad_model', 'p_model names no model', 'Send the name of the model that Google has shut down.');
  end if;
  select * into v_row from generation.models as m where m.model = p_model for no key update;
  v_next := coalesce(nullif(p_successor, p_model), v_row.successor, v_row."announcedSuccessor");
  if v_next is null or generation.leads_back(v_next, p_model) then
    return jsonb_build_object('model', p_model, 'successor', null,
      'reason', case when v_next is null then 'no_successor' else 'cycle' end, 'note', null);
  end if;
  insert into generation.models as m (model, successor, "successorSince") values (p_model, v_next, generation.clock())
  on conflict (model) do update set successor = excluded.successor, "successorSince" = excluded."successorSince"
    where m.successor is distinct from excluded.successor;
  v_next := generation.current_model(v_next);
  return jsonb_build_object('model', p_model, 'successor', v_next, 'reason', null, 'note', generation.price_note(p_model, v_next));
end
$$;

-- Corrects what is known of a model; p_facts may have dollars (an image of 1K, null: unknown), announcedEnd, announcedSuccessor (null:
-- none), source, and available: true, which forgets that Google answered 404 for it. What is not named stays. If the model has already been
-- replaced, the new successor takes effect at once. Returns the same as generation_models. Errors: PT400. Locks: the model's row.
-- Safe to repeat: the same facts are written again.
create or replace function public.set_generation_model(p_model text, p_facts jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_source text;
  v_today date := (generation.clock() at time zone 'UTC')::date;
  -- The source of a price alone is not that of what was announced.
  v_announced boolean := p_facts ?| array['announcedEnd', 'announcedSuccessor'] or not p_facts ?| array['dollars', 'available'];
begin
  perform generation.require_service();
  v_source := coalesce(generation.checked_text(p_facts -> 'source', 'source', 1000), 'set by the operator');
  if coalesce(p_model, '') !~ '^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$' or p_facts ->> 'announcedSuccessor' = p_model then
    perform generation.refuse('400', 'bad_model', 'p_model names no model, or the model is its own successor',
      'Name two different models.');
  elsif jsonb_typeof(p_facts) is distinct from 'object' then
    perform generation.refuse('400', 'wrong_type', 'p_facts must be an object', 'Send {"dollars": 0.039}.');
  end if;
  perform generation.refuse_unknown_fields(p_facts,
    array['dollars', 'announcedEnd', 'announcedSuccessor', 'source', 'available'], 'p_facts');
  if jsonb_typeof(p_facts -> 'dollars') not in ('number', 'null') or (p_facts ->> 'dollars')::numeric < 0 then
    perform generation.refuse('400', 'out_of_range', 'dollars must be a number from 0, or null', 'Send {"dollars": 0.039}.');
  end if;
  insert into generation.models as m (model, "announcedEnd", "announcedSuccessor", source, "asOf")
  values (p_model, generation.checked_date(p_facts -> 'announcedEnd', 'announcedEnd'),
    generation.checked_text(p_facts -> 'announcedSuccessor', 'announcedSuccessor', 200),
    case when v_announced then v_source end, case when v_announced then v_today end)
  on conflict (model) do update
  set "announcedEnd" = case when p_facts ? 'announcedEnd' then excluded."announcedEnd" else m."announcedEnd" end,
    "announcedSuccessor" = case when p_facts ? 'announcedSuccessor' then excluded."announcedSuccessor" else m."announcedSuccessor" end,
    successor = case when p_facts -> 'available' = 'true' then null
      when p_facts ? 'announcedSuccessor' and m.successor is not null then excluded."announcedSuccessor" else m.successor end,
    source = coalesce(excluded.source, m.source), "asOf" = coalesce(excluded."asOf", m."asOf");
  if p_facts ->> 'dollars' is not null then
    insert into generation.prices as p (model, dollars, since, source)
    values (p_model, (p_facts ->> 'dollars')::numeric, v_today, v_source)
    on conflict (model) do update set dollars = excluded.dollars, since = excluded.since, source = excluded.source;
  elsif p_facts ? 'dollars' then
    delete from generation.prices as p where p.model = p_model;
  end if;
  return public.generation_models();
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
