-- How old values are read. All of these answer null to what they cannot read, and none fails.

-- A status in our spelling: `Rate-Limited`, `rateLimited` and `RATE LIMITED` are rate_limited.
create or replace function pg_temp.as_status(p_value text) returns text
language sql immutable as $$
  select lower(regexp_replace(regexp_replace(btrim(p_value), '([a-z])([A-Z])', '\1_\2', 'g'), '[ -]+', '_', 'g'))
$$;

create or replace function pg_temp.as_time(p_value text) returns timestamptz
language plpgsql stable as $$
begin
  return p_value::timestamptz;
exception
  when others then return null;
end
$$;

create or replace function pg_temp.as_number(p_value text) returns numeric
language sql immutable as $$
  select case when p_value ~ '^\s*[+-]?\d+(\.\d*)?\s*$' then p_value::numeric end
$$;

-- Whether a text reads as a value of the type.
create or replace function pg_temp.reads_as(p_value text, p_type text) returns boolean
language plpgsql stable as $$
begin
  execute format('select cast(nullif(btrim($1), '''') as %s)', p_type) using p_value;
  return true;
exception
  when others then return false;
end
$$;

-- A list kept as text: a JSON array, a PostgreSQL array, addresses with commas between them, or one entry.
create or replace function pg_temp.as_list(p_value text) returns jsonb
language plpgsql stable as $$
declare
  v_list jsonb;
begin
  if btrim(p_value) = '' then
    v_list := '[]';
  elsif p_value ~ '^\s*\[' then
    v_list := p_value::jsonb;
  elsif p_value ~ '^\s*\{' then
    v_list := to_jsonb(p_value::text[]);
  elsif p_value ~ ',\s*https?://' then
    v_list := to_jsonb(regexp_split_to_array(btrim(p_value), '\s*,\s*(?=https?://)'));
  else
    v_list := jsonb_build_array(p_value);
  end if;
  return v_list;
exception
  when others then return null;
end
$$;

-- A list of any kind: null is empty, a text is read as above; an object, a number or a boolean is no list.
create or replace function pg_temp.as_list(p_value jsonb) returns jsonb
language sql stable as $$
  select case coalesce(jsonb_typeof(p_value), 'null')
    when 'array' then p_value
    when 'null' then '[]'
    when 'string' then pg_temp.as_list(p_value #>> '{}')
  end
$$;

-- The expression that turns a column into another type; null when there is no safe one. `checked` says that
-- it may fail on single values, which are then looked for beforehand.
create or replace function pg_temp.conversion(p_column text, p_from text, p_to text)
returns table (expression text, checked boolean)
language sql immutable as $$
  select case
      when p_column = 'id' and p_from not in ('smallint', 'integer') then null
      when p_column = 'status' then format('pg_temp.as_status(%I::text)', p_column)
      when p_to = 'text' and p_from in ('json', 'jsonb') then format('%I #>> ''{}''', p_column)
      when p_to = 'text' then format('%I::text', p_column)
      when p_to = 'jsonb' then format('pg_temp.as_list(to_jsonb(%I))', p_column)
      when p_to = 'timestamp with time zone' and p_from ~ '^(timestamp(\(\d\))? without time zone|date)$'
        then format('%I::timestamp at time zone ''UTC''', p_column)
      when p_to = 'timestamp with time zone' and p_from ~ '^timestamp\(\d\) with time zone$' then format('%I', p_column)
      when c.from_text then format('nullif(btrim(%I), '''')::%s', p_column, p_to)
      when c.between_numbers then format('%I::%s', p_column, p_to)
    end,
    c.from_text or c.between_numbers and not (p_from in ('smallint', 'integer') and p_to = 'bigint')
  from (
    select p_from ~ '^(text$|character)' and p_to in ('timestamp with time zone', 'smallint', 'integer', 'bigint') as from_text,
      p_from ~ '^(smallint|integer|bigint|numeric|real|double)' and p_to in ('smallint', 'integer', 'bigint')
        as between_numbers
  ) as c
$$;

-- How many values of a column do not read as the type, with up to three of them.
create or replace function pg_temp.unreadable(p_tab text, p_column text, p_type text)
returns table (cells bigint, sample text)
language plpgsql stable as $$
begin
  return query execute format(
    'select count(*), array_to_string((array_agg(distinct left(v, 40)))[1:3], '', '')
     from (select %1$I::text as v from %2$s) as cell where not pg_temp.reads_as(v, %3$L)', p_column, p_tab, p_type);
end
$$;
