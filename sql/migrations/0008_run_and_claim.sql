-- The run and the claim that hold a job, in columns of their own: functions find held jobs by them, and never take "lockedBy" apart.

alter table public.photo_generation_queue
-- Set by a claim with "lockedBy", and read only while status = 'processing': the runbook's `update` leaves them.
add column if not exists "runId" uuid,
add column if not exists "claimId" uuid;

-- What is being processed now keeps its run: "lockedBy" is {worker}/{run}/{claim}. Where it is not, no run holds the job, and it comes
-- back when its lease ends.
update public.photo_generation_queue
set "runId" = split_part("lockedBy", '/', 2)::uuid, "claimId" = split_part("lockedBy", '/', 3)::uuid
where status = 'processing' and "runId" is null
and "lockedBy" ~ '^[^/]+(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}){2}$';

-- A repeated claim finds its own jobs, and a finishing run everything its claims still hold.
drop index if exists public.photo_generation_queue_held;
create index photo_generation_queue_held
on public.photo_generation_queue ("runId", "claimId")
where status = 'processing';
