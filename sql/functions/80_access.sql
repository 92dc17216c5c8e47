-- Who may do what. Supabase grants everything in schema public to anon and authenticated by default, so
-- what they may not do is revoked by name.

revoke all on schema generation from public, anon, authenticated;
revoke all on all tables in schema generation from public, anon, authenticated;
revoke all on all functions in schema generation from public, anon, authenticated;

revoke all on public.photo_generation_batches, public.photo_generation_queue, public.photo_generation_photos
from public, anon, authenticated;
grant select on public.photo_generation_batches, public.photo_generation_queue, public.photo_generation_photos
to authenticated;
grant all on public.photo_generation_batches, public.photo_generation_queue, public.photo_generation_photos
to service_role;

-- The sequences behind the ids are open by default as well; who could set one back would stop every insert.
do $$
declare
  v_sequence text;
begin
  foreach v_sequence in array array[
    pg_get_serial_sequence('public.photo_generation_queue', 'id'),
    pg_get_serial_sequence('public.photo_generation_photos', 'id')] loop
    execute format('revoke all on sequence %s from public, anon, authenticated', v_sequence);
  end loop;
end
$$;

-- Row-level security: everyone sees their own rows, and only the functions write. The condition is
-- `auth.jwt() ->> 'sub'` spelled out, so that it also stands where there is no schema auth; the sub-select
-- makes PostgreSQL read the token once per query instead of once per row.
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

-- Who may call a function is said by its guard (15_callers.sql).
do $$
declare
  v_function record;
begin
  for v_function in select f.id::regprocedure as signature, f.for_users from generation.api_functions() as f loop
    execute format('revoke all on function %s from public, anon, authenticated', v_function.signature);
    execute format('grant execute on function %s to service_role', v_function.signature);
    if v_function.for_users then
      execute format('grant execute on function %s to authenticated', v_function.signature);
    end if;
  end loop;
end
$$;
