-- Who may call what. Each function of schema public begins with one of the two guards below, so it refuses by itself whatever the
-- grants say: a restored backup, for one, brings back Supabase's default grants to anon and authenticated. The tables at the end say
-- what each role may do.

-- The role that the caller acts as: the one that the API has set for the request, else the one that logged in. Functions run
-- as their owner, so `current_user` does not tell.
create or replace function generation.caller() returns name
language plpgsql stable set search_path = ''
as $$
begin
  return coalesce(nullif(current_setting('role', true), 'none')::name, session_user);
end
$$;

-- Whether the caller is a user, who may act only for themselves. A role that the API has set is a user unless it may become the service
-- role. A role that has logged in by itself is a user only if it belongs to anon or authenticated. So the service role, a superuser, a
-- SQL session of the owner, and a job of pg_cron are not users.
create or replace function generation.caller_is_user() returns boolean
language plpgsql stable set search_path = ''
as $$
declare
  v_caller constant name := generation.caller();
begin
  return not pg_has_role(v_caller, 'service_role', 'member') and (
    current_setting('role', true) <> 'none' or pg_has_role(v_caller, 'authenticated', 'member') or pg_has_role(v_caller, 'anon', 'member'));
end
$$;

-- Refuses with 42501, the code for missing rights, which PostgREST turns into 401 for anon and 403 for others.
create or replace function generation.refuse_caller(p_message text, p_hint text) returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = 'insufficient_privilege', message = p_message, detail = 'not_allowed', hint = p_hint;
end
$$;

-- The guard of functions that only the service role and SQL sessions may call.
create or replace function generation.require_service() returns void
language plpgsql stable set search_path = ''
as $$
begin
  if generation.caller_is_user() then
    perform generation.refuse_caller('only the service role may call this function',
      'Call it from a server, with the project''s secret key.');
  end if;
end
$$;

-- The guard of functions that signed-in users may call too, for themselves; such a function then calls caller_is_user.
create or replace function generation.require_user() returns void
language plpgsql stable set search_path = ''
as $$
begin
  if generation.caller_is_user() and pg_has_role(generation.caller(), 'anon', 'member')
    and not pg_has_role(generation.caller(), 'authenticated', 'member') then
    perform generation.refuse_caller('only signed-in users may call this function', 'Sign in, and send the session''s access token.');
  end if;
end
$$;

-- The functions of the API, and whether signed-in users may call them too, for themselves; the others are for the service role and SQL
-- sessions alone. Grants (80_access.sql) and generation_access_findings are made from this table; tests hold the guards and
-- sql/README.md to it.
create or replace function generation.function_callers() returns table (signature text, for_users boolean)
language sql immutable set search_path = ''
as $$
  values
  ('cancel_generation_batch(text)', true),
  ('enqueue_generation_batch(jsonb, text)', true),
  ('get_generation_batch(text)', true),
  ('add_generation_photo_host(text)', false),
  ('claim_generation_jobs(uuid, text, uuid, integer, numeric, text, text, jsonb, integer, integer)', false),
  ('erase_generation_user(text)', false),
  ('finish_generation_run(uuid, text, jsonb, jsonb)', false),
  ('generation_access_findings()', false),
  ('generation_details(text)', false),
  ('generation_erasures_to_sweep(integer)', false),
  ('generation_gate()', false),
  ('generation_jobs_to_sweep(integer)', false),
  ('generation_models()', false),
  ('generation_overview(integer)', false),
  ('generation_photo_hosts()', false),
  ('generation_queue_stats()', false),
  ('generation_schema_version()', false),
  ('pause_generation(text)', false),
  ('peek_generation_jobs(integer)', false),
  ('prune_generation_history(integer, integer)', false),
  ('record_failed_image(bigint, integer, text, text, text)', false),
  ('record_generated_photo(bigint, integer, jsonb)', false),
  ('release_stale_generation_jobs(numeric)', false),
  ('remove_generation_gate(text)', false),
  ('remove_generation_photo_host(text)', false),
  ('report_rate_limit(text, jsonb, bigint)', false),
  ('report_storage(boolean, jsonb)', false),
  ('resume_generation()', false),
  ('retire_generation_model(text, text)', false),
  ('retry_failed_generation_jobs(text, boolean, integer)', false),
  ('set_generation_limits(jsonb)', false),
  ('set_generation_model(text, jsonb)', false),
  ('set_generation_model_successor(text, text)', false),
  ('set_generation_rate(text, numeric, integer, double precision, double precision)', false),
  ('settle_generation_erasure(text, boolean)', false),
  ('settle_generation_jobs(jsonb)', false),
  ('settle_swept_generation_jobs(jsonb)', false),
  ('take_start_slots(uuid, text, integer, double precision, jsonb)', false)
$$;

-- The functions of function_callers that exist.
create or replace function generation.api_functions() returns table (id oid, name text, for_users boolean)
language sql stable set search_path = ''
as $$
  select p.oid, p.proname::text, f.for_users
  from generation.function_callers() as f
  join pg_catalog.pg_proc as p on p.oid = to_regprocedure('public.' || f.signature)
$$;

-- What the roles of the API may do with our tables, beside calling functions. Users read their own rows; the rows of a batch, its jobs
-- and its photos are what an app shows. Servers with the service key read all rows, insert jobs as the old `generate-images` did, and
-- remove rows of photos whose objects they have removed. Functions need none of this: they run as their owner.
create or replace function generation.table_callers() returns table (name text, role text, privileges text[])
language sql immutable set search_path = ''
as $$
  values
  ('photo_generation_batches', 'authenticated', array['select']),
  ('photo_generation_batches', 'service_role', array['select']),
  ('photo_generation_queue', 'authenticated', array['select']),
  ('photo_generation_queue', 'service_role', array['select', 'insert']),
  ('photo_generation_photos', 'authenticated', array['select']),
  ('photo_generation_photos', 'service_role', array['select', 'delete'])
$$;
