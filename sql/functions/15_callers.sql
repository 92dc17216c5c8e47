-- Who calls. Every function of schema public begins with one of the two guards below, and that alone says who may call it: the
-- grants of 80_access.sql and generation_access_findings are read from it. So a function refuses by itself whatever the grants
-- say: a restored backup, for one, brings back Supabase's default grants to anon and authenticated.

-- The role that the caller acts as: the one that the API has set for the request, else the one that logged in. Functions run
-- as their owner, so `current_user` does not tell.
create or replace function generation.caller() returns name
language plpgsql stable set search_path = ''
as $$
begin
  return coalesce(nullif(current_setting('role', true), 'none')::name, session_user);
end
$$;

-- Whether the caller acts for themselves only. Every role is a user that the API has set and that may not become the service
-- role; of the roles that log in by themselves, only those that belong to anon or authenticated. So the service role is none,
-- nor is a superuser, a SQL session of the owner, or a job of pg_cron.
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

-- Refuses with 42501, as missing rights are refused; PostgREST makes it 401 for anon and 403 for the others.
create or replace function generation.refuse_caller(p_message text, p_hint text) returns void
language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = 'insufficient_privilege', message = p_message, detail = 'not_allowed', hint = p_hint;
end
$$;

-- The guard of what only the service role and SQL sessions may call.
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

-- The guard of what signed-in users may call too, for themselves; the function then asks caller_is_user.
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

-- The functions of schema public that have a guard, which are all of ours.
create or replace function generation.api_functions() returns table (id oid, name text, for_users boolean)
language sql stable set search_path = ''
as $$
  select p.oid, p.proname::text, p.prosrc ~ 'perform generation[.]require_user[(]'
  from pg_catalog.pg_proc as p
  where p.pronamespace = 'public'::regnamespace and p.prosrc ~ 'perform generation[.]require_(user|service)[(]'
$$;
