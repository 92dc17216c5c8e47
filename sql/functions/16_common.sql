-- What every function of the API uses: the clock, advisory locks, refusals, checks of parameters, and plans.
--
-- A refusal is an error PTnnn, which PostgREST turns into HTTP status nnn: `detail` is the reason for programs, the message names the
-- field, `hint` says what to do. The checks here refuse with PT400.

-- The database's clock. Everything that compares times asks it, so that tests can move it by replacing
-- this function; nothing in production can.
create or replace function generation.clock() returns timestamptz
language plpgsql stable set search_path = ''
as $$
begin
  return now();
end
$$;

-- The day that daily quotas, caps and limits count for: California's, as Google's quotas do (Gemini API, "Rate limits").
create or replace function generation.quota_day(p_now timestamptz) returns date
language plpgsql immutable set search_path = ''
as $$
begin
  return (p_now at time zone 'America/Los_Angeles')::date;
end
$$;

-- When the next such day begins, daylight saving time or not.
create or replace function generation.next_daily_reset(p_now timestamptz) returns timestamptz
language sql stable set search_path = ''
as $$ select (generation.quota_day(p_now) + 1)::timestamp at time zone 'America/Los_Angeles' $$;

-- The class of an advisory lock, which is a pair of hashes: of what it is for, and of an id that callers cannot choose freely.
-- These are all that there are: `run` (its claims and its end), `user` (orders share it, an erasure does not), `runs` (a place among
-- the runs at once), `requests` (what claims count for users), `kick` (who wakes the worker).
create or replace function generation.lock_class(p_purpose text) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  if p_purpose = any (array['run', 'user', 'runs', 'requests', 'kick']) is not true then
    raise exception 'generation.lock_class: there is no advisory lock for "%"', p_purpose;
  end if;
  return hashtext('generation.' || p_purpose);
end
$$;

-- Plans: orders and what workers call (enqueue, claim, record, settle, finish) read by key or from the head of an index. Each of these
-- has `plan_cache_mode = force_generic_plan`, so that a session plans each statement once, and none sets other planner options, because
-- triggers of the app run inside these functions. They call PL/pgSQL functions, which keep their plans between calls, where an SQL
-- function that cannot be inlined does not (up to PostgreSQL 17). Their statements name the keys they read as an array, so that no plan
-- depends on how many rows a join is estimated to have.
--
-- Discards this session's plans when the queue has grown or shrunk tenfold since they were made. A plan that is made while a table
-- has a few pages reads the whole table, and is kept until the table is analyzed: up to a minute after thousands of orders came in.
create or replace function generation.renew_plans() returns void
language plpgsql set search_path = ''
as $$
declare
  v_size constant text := trunc(log(1 + pg_relation_size('public.photo_generation_queue')));
begin
  if current_setting('generation.planned_size', true) is distinct from v_size then
    perform set_config('generation.planned_size', v_size, false);
    discard plans;
  end if;
end
$$;

-- Refuses a call with HTTP status p_status (PostgREST turns SQLSTATE PTnnn into it). Never returns; declared
-- as text so that `coalesce(value, generation.refuse(…))` reads as "value, or else".
create or replace function generation.refuse(p_status text, p_reason text, p_message text, p_hint text)
returns text
language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = 'PT' || p_status, message = p_message, detail = p_reason, hint = p_hint;
end
$$;

-- Refuses fields of p_object that are not in p_allowed: a misspelt option must not be silently ignored. Names five at most.
create or replace function generation.refuse_unknown_fields(p_object jsonb, p_allowed text[], p_where text)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_unknown text;
begin
  select string_agg(left(u.k, 60), ', ' order by u.i) filter (where u.i <= 5)
    || case when count(*) > 5 then format(' and %s more', count(*) - 5) else '' end
  into v_unknown
  from (select k, row_number() over (order by k) as i from jsonb_object_keys(p_object) as k where k <> all (p_allowed)) as u;
  if v_unknown is not null then
    perform generation.refuse('400', 'unknown_field', format('%s: unknown field %s', p_where, v_unknown),
      'Allowed: ' || array_to_string(p_allowed, ', '));
  end if;
end
$$;

-- The text in p_value: null when absent, trimmed otherwise. Refuses other types, blank text, control
-- characters other than tab and newline, and more than p_max_chars characters.
create or replace function generation.checked_text(p_value jsonb, p_field text, p_max_chars integer)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_text text := btrim(p_value #>> '{}', E' \t\n\r');
begin
  if p_value is null or jsonb_typeof(p_value) = 'null' then
    return null;
  elsif jsonb_typeof(p_value) <> 'string' then
    perform generation.refuse('400', 'wrong_type', format('%s must be text', p_field), 'Send a JSON string.');
  elsif v_text = '' then
    perform generation.refuse('400', 'empty', format('%s is empty', p_field), 'Fill it in, or leave it out if it is optional.');
  elsif length(v_text) > p_max_chars then
    perform generation.refuse('400', 'too_long',
      format('%s has %s characters; at most %s are allowed', p_field, length(v_text), p_max_chars), 'Shorten it.');
  elsif v_text ~ '[\u0001-\u0008\u000b\u000c\u000e-\u001f\u007f]' then
    perform generation.refuse('400', 'control_characters', format('%s contains control characters', p_field), 'Remove them.');
  end if;
  return v_text;
end
$$;

-- The whole number in p_value, p_default when absent. Refuses other types and values out of range.
create or replace function generation.checked_integer(
  p_value jsonb, p_field text, p_min integer, p_max integer, p_default integer
) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  if p_value is null or jsonb_typeof(p_value) = 'null' then
    return p_default;
  elsif jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}')::numeric % 1 <> 0 then
    perform generation.refuse('400', 'wrong_type', format('%s must be a whole number', p_field),
      format('Send a number from %s to %s.', p_min, p_max));
  elsif (p_value #>> '{}')::numeric not between p_min and p_max then
    perform generation.refuse('400', 'out_of_range',
      format('%s is %s; allowed is %s to %s', p_field, left(p_value #>> '{}', 20), p_min, p_max),
      format('Send a number from %s to %s.', p_min, p_max));
  end if;
  return (p_value #>> '{}')::numeric::integer;
end
$$;

-- The array in p_value as jsonb, `[]` when absent. Refuses other types and a length out of range.
create or replace function generation.checked_array(p_value jsonb, p_field text, p_min integer, p_max integer)
returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
  v_array jsonb := coalesce(nullif(p_value, 'null'), '[]');
begin
  if jsonb_typeof(v_array) <> 'array' then
    perform generation.refuse('400', 'wrong_type', format('%s must be a list', p_field), 'Send a JSON array.');
  elsif jsonb_array_length(v_array) not between p_min and p_max then
    perform generation.refuse('400', 'out_of_range',
      format('%s has %s entries; allowed are %s to %s', p_field, jsonb_array_length(v_array), p_min, p_max),
      format('Send %s to %s entries.', p_min, p_max));
  end if;
  return v_array;
end
$$;

-- The list of texts in p_value as jsonb, `[]` when absent; at most 10 entries of 200 characters.
create or replace function generation.checked_texts(p_value jsonb, p_field text) returns jsonb
language sql immutable set search_path = ''
as $$
  select coalesce(
    jsonb_agg(
      coalesce(generation.checked_text(e, format('%s[%s]', p_field, i - 1), 200), '') order by i
    ) filter (where e <> 'null'), '[]')
  from jsonb_array_elements(generation.checked_array(p_value, p_field, 0, 10)) with ordinality as a (e, i)
$$;

-- The date in a fact, null where it is null.
create or replace function generation.checked_date(p_value jsonb, p_field text) returns date
language plpgsql stable set search_path = ''
as $$
begin
  return generation.checked_text(p_value, p_field, 10)::date;
exception
  when datetime_field_overflow or invalid_datetime_format then
    return generation.refuse('400', 'out_of_range', format('%s is no date', p_field), 'Send a date like 2027-03-15, or null.')::date;
end
$$;
