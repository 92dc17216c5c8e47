-- Who may do what. Supabase grants everything in schema public to anon and authenticated by default, so
-- what they may not do is revoked by name.

revoke all on schema generation from public, anon, authenticated, service_role;
revoke all on all tables in schema generation from public, anon, authenticated, service_role;
revoke all on all functions in schema generation from public, anon, authenticated, service_role;

-- Grants what 15_callers.sql lists. No role needs a right to a sequence to insert rows, and a role that could reset one could stop every
-- insert.
do $$
declare
  v_table record;
  v_function record;
begin
  for v_table in select format('public.%I', c.name) as name, pg_get_serial_sequence(format('public.%I', c.name), 'id') as sequence
    from (select distinct r.name from generation.table_callers() as r) as c
  loop
    execute format('revoke all on table %s from public, anon, authenticated, service_role', v_table.name);
    if v_table.sequence is not null then
      execute format('revoke all on sequence %s from public, anon, authenticated, service_role', v_table.sequence);
    end if;
  end loop;
  for v_table in select r.name, r.role, array_to_string(r.privileges, ', ') as privileges from generation.table_callers() as r loop
    execute format('grant %s on table public.%I to %I', v_table.privileges, v_table.name, v_table.role);
  end loop;
  for v_function in select f.signature, f.for_users from generation.function_callers() as f loop
    execute format('revoke all on function public.%s from public, anon, authenticated', v_function.signature);
    execute format('grant execute on function public.%s to service_role', v_function.signature);
    if v_function.for_users then
      execute format('grant execute on function public.%s to authenticated', v_function.signature);
    end if;
  end loop;
end
$$;

-- Row-level security: users see their own rows, and only the functions write. The condition is `auth.jwt() ->> 'sub'` spelled
-- out, so that it also works without a schema auth. The subselect lets PostgreSQL read the token once per query instead of once per row.
alter table public.photo_generation_batches enable row level security;
alter table public.photo_generation_queue enable row level security;
alter table public.photo_generation_photos enable row level security;
alter table generation.schema_migrations enable row level security;
alter table generation.failed_images enable row level security;
alter table generation.runs enable row level security;
alter table generation.idempotency_keys enable row level security;
alter table generation.flows enable row level security;
alter table generation.virtual_times enable row level security;
alter table generation.models enable row level security;
alter table generation.photo_buckets enable row level security;
alter table generation.photo_hosts enable row level security;
alter table generation.gate_turns enable row level security;
alter table generation.gates enable row level security;
alter table generation.limits enable row level security;
alter table generation.prices enable row level security;
alter table generation.erasures enable row level security;
alter table generation.counts enable row level security;
alter table generation.changed_minutes enable row level security;
alter table generation.counting enable row level security;

drop policy if exists "own batches" on public.photo_generation_batches;
create policy "own batches" on public.photo_generation_batches for select to authenticated
using ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = "userId");

drop policy if exists "own jobs" on public.photo_generation_queue;
create policy "own jobs" on public.photo_generation_queue for select to authenticated
using ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = "userId");

drop policy if exists "own photos" on public.photo_generation_photos;
create policy "own photos" on public.photo_generation_photos for select to authenticated
using ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = "userId");
