-- How plans stay good. What orders and workers call (enqueue, claim, record, settle, finish) reads by key or from the head of an index.
-- Each of these functions has `plan_cache_mode = force_generic_plan`, so that a session plans each statement once. No function sets
-- other planner options, because triggers of the app run inside these functions and would be planned with them.
--
-- PL/pgSQL functions keep their plans between calls; up to PostgreSQL 17 an SQL function that cannot be inlined is planned at each
-- call. So functions that a claim or a settle calls are PL/pgSQL. Their statements name the keys they read as an array, so that no
-- plan depends on how many rows a join is estimated to have.

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
