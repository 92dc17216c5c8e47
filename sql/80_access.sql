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
-- An old table's may have another name, and has none at this point where the upgrade makes it.
do $$
declare
  v_sequence text;
begin
  foreach v_sequence in array array_remove(array[
    pg_get_serial_sequence('public.photo_generation_queue', 'id'),
    pg_get_serial_sequence('public.photo_generation_photos', 'id')], null) loop
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
alter table generation.failed_images enable row level security;
alter table generation.runs enable row level security;
alter table generation.idempotency_keys enable row level security;
alter table generation.flows enable row level security;
alter table generation.models enable row level security;
alter table generation.photo_buckets enable row level security;
alter table generation.gates enable row level security;
alter table generation.limits enable row level security;
alter table generation.prices enable row level security;
alter table generation.erasures enable row level security;

drop policy if exists "own batches" on public.photo_generation_batches;
create policy "own batches" on public.photo_generation_batches for select to authenticated
using ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = "userId");

drop policy if exists "own jobs" on public.photo_generation_queue;
create policy "own jobs" on public.photo_generation_queue for select to authenticated
using ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = "userId");

drop policy if exists "own photos" on public.photo_generation_photos;
create policy "own photos" on public.photo_generation_photos for select to authenticated
using ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub') = "userId");

revoke all on function
public.enqueue_generation_batch(jsonb, text),
public.claim_generation_jobs(uuid, text, uuid, integer, numeric, text),
public.record_generated_photo(bigint, integer, jsonb),
public.record_failed_image(bigint, integer, text, text, text),
public.settle_generation_jobs(jsonb),
public.finish_generation_run(uuid, text, jsonb, jsonb),
public.generation_schema_version(),
public.get_generation_batch(text),
public.cancel_generation_batch(text),
public.release_stale_generation_jobs(numeric),
public.retry_failed_generation_jobs(text, boolean, integer),
public.peek_generation_jobs(integer),
public.generation_queue_stats(),
public.set_generation_model_successor(text, text),
public.generation_models(),
public.retire_generation_model(text, text),
public.set_generation_model(text, jsonb),
public.take_start_slots(uuid, text, integer, double precision),
public.report_rate_limit(text, jsonb, bigint),
public.report_storage(boolean, jsonb),
public.set_generation_rate(text, numeric, integer, double precision, double precision),
public.remove_generation_gate(text),
public.set_generation_limits(jsonb),
public.pause_generation(text),
public.resume_generation(),
public.generation_gate(),
public.generation_overview(integer),
public.generation_details(text),
public.generation_jobs_to_sweep(integer),
public.settle_swept_generation_jobs(jsonb),
public.prune_generation_history(integer, integer),
public.erase_generation_user(text),
public.generation_erasures_to_sweep(integer),
public.settle_generation_erasure(text, boolean)
from public, anon, authenticated;

grant execute on function
public.enqueue_generation_batch(jsonb, text),
public.claim_generation_jobs(uuid, text, uuid, integer, numeric, text),
public.record_generated_photo(bigint, integer, jsonb),
public.record_failed_image(bigint, integer, text, text, text),
public.settle_generation_jobs(jsonb),
public.finish_generation_run(uuid, text, jsonb, jsonb),
public.generation_schema_version(),
public.get_generation_batch(text),
public.cancel_generation_batch(text),
public.release_stale_generation_jobs(numeric),
public.retry_failed_generation_jobs(text, boolean, integer),
public.peek_generation_jobs(integer),
public.generation_queue_stats(),
public.set_generation_model_successor(text, text),
public.generation_models(),
public.retire_generation_model(text, text),
public.set_generation_model(text, jsonb),
public.take_start_slots(uuid, text, integer, double precision),
public.report_rate_limit(text, jsonb, bigint),
public.report_storage(boolean, jsonb),
public.set_generation_rate(text, numeric, integer, double precision, double precision),
public.remove_generation_gate(text),
public.set_generation_limits(jsonb),
public.pause_generation(text),
public.resume_generation(),
public.generation_gate(),
public.generation_overview(integer),
public.generation_details(text),
public.generation_jobs_to_sweep(integer),
public.settle_swept_generation_jobs(jsonb),
public.prune_generation_history(integer, integer),
public.erase_generation_user(text),
public.generation_erasures_to_sweep(integer),
public.settle_generation_erasure(text, boolean)
to service_role;

grant execute on function
public.enqueue_generation_batch(jsonb, text),
public.get_generation_batch(text),
public.cancel_generation_batch(text)
to authenticated;
