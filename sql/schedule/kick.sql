-- The kick: an order calls the worker at once when no run is under way, so that its first photo starts in about a second
-- instead of up to a minute. Optional; run after call.sql, in the SQL editor or psql; safe to run again. It replaces no
-- clock: an order whose kick is left out or lost waits for the next tick, of pg_cron or of Cloud Scheduler.

begin;

set local lock_timeout = '10s';

do $$
begin
  if to_regprocedure('generation.call_worker(text, text)') is null then
    raise exception 'The database does not know how to call the worker yet.' using hint = 'Run sql/schedule/call.sql first.';
  end if;
end
$$;

-- Whether there was a kick within the last three seconds. Long enough for a warm instance to register its run, from which
-- on that run is what keeps further kicks back; short, because an order within them may have to wait for the next tick.
create or replace function generation.was_kicked() returns boolean
language sql volatile set search_path = ''
as $$
  select exists (
    select from generation.worker_calls as c where c.cause = 'kick'
      and c."calledAt" between clock_timestamp() - interval '3 seconds' and clock_timestamp())
$$;

-- Calls the worker after jobs have been inserted, unless a run is under way, the queue is paused, or there was a kick within
-- three seconds.
-- Why a run under way is enough: it claims again when its jobs have ended, until a claim finds nothing; what is committed
-- by then it finds. Missed are orders that come while a run does not claim any more: between its last claim, which found
-- nothing, and its end, which are two round trips; or because its time or its jobs are used up, or the gate is
-- closed. Those wait for the tick. A run that died counts until its deadline, 270 s after its start at most; the tick goes on.
-- The request leaves with the order's commit, and a rolled-back order sends none: pg_net reads its queue as anybody reads a table.
-- Never in the way of an order: it waits for no lock longer than 100 ms and for other orders not at all, and any error
-- (pg_net or Vault gone, a secret missing) becomes one line in the server's log with its SQLSTATE only; for the whole message
-- run `select generation.call_worker();`.
create or replace function generation.kick_worker() returns trigger
language plpgsql security definer set search_path = '' set lock_timeout = '100ms'
as $$
begin
  if exists (select from generation.runs as r where r."finishedAt" is null and r."endsBy" > generation.clock())
    or exists (select from generation.limits as l where l."pausedAt" is not null) or generation.was_kicked() then
    return null;
  end if;
  -- Of orders that come at once the first kicks; the lock is free again when its kick is visible to all, so look once more.
  if not pg_try_advisory_xact_lock(generation.lock_class('kick'), 0) then
    return null;
  elsif generation.was_kicked() then
    return null;
  end if;
  perform generation.call_worker('/', 'kick');
  return null;
exception
  when others then
    raise log 'generation: the worker was not kicked (SQLSTATE %); the next tick calls it', sqlstate;
    return null;
end
$$;

revoke all on function generation.was_kicked(), generation.kick_worker() from public, anon, authenticated;

-- On the queue, where every job arrives: from enqueue_generation_batch, and from an app that inserts by itself.
drop trigger if exists photo_generation_queue_kick on public.photo_generation_queue;
create trigger photo_generation_queue_kick
after insert on public.photo_generation_queue
for each statement execute function generation.kick_worker();

commit;
