-- Indexes. Each is for one question, which its comment names; tests hold the plans to them.

-- A user's own batches, newest first: what a front end lists, and what row-level security filters by.
create index if not exists photo_generation_batches_user
on public.photo_generation_batches ("userId", "createdAt" desc);

-- The batches that ended longest ago: pruning.
create index if not exists photo_generation_batches_ended
on public.photo_generation_batches ("completedAt")
where "completedAt" is not null;

-- What a user still waits for: the limit of images queued at once.
create index if not exists photo_generation_batches_open
on public.photo_generation_batches ("userId")
where status = 'generating';

-- The latest batches of all users: the operator's page.
create index if not exists photo_generation_batches_created
on public.photo_generation_batches ("createdAt" desc);

-- The claim reads its head: only rows that can be handed out now, in the order they are handed out, so
-- that finished rows and rows waiting for a later retryAt cost it nothing.
create index if not exists photo_generation_queue_ready
on public.photo_generation_queue (priority desc, "startTag", id)
where status = 'pending' and "retryAt" is null;

-- The claim promotes what has come due from the head of this one, a bounded number each time.
create index if not exists photo_generation_queue_waiting
on public.photo_generation_queue ("retryAt")
where "retryAt" is not null and status in ('pending', 'rate_limited');

-- Waits that began in the future, set by a clock that was ahead: a claim looks at the far end, where usually there is none.
create index if not exists photo_generation_queue_waiting_since
on public.photo_generation_queue ("waitingSince")
where "waitingSince" is not null;

-- The claim rescues expired leases from its head.
create index if not exists photo_generation_queue_leases
on public.photo_generation_queue ("leaseExpiresAt")
where status = 'processing';

-- A repeated claim finds its own jobs, and a finishing run everything its claims still hold: `lockedBy` is
-- {worker}/{run}/{claim}, and the C collation turns "starts with" into a range.
create index if not exists photo_generation_queue_held
on public.photo_generation_queue ("lockedBy" collate "C")
where status = 'processing';

-- The jobs of a batch: cancel, retry and the batch's own page.
create index if not exists photo_generation_queue_batch
on public.photo_generation_queue ("batchId");

-- A user's own jobs, newest first (row-level security filters by user).
create index if not exists photo_generation_queue_user
on public.photo_generation_queue ("userId", "createdAt" desc);

-- What ended lately: statistics.
create index if not exists photo_generation_queue_ended
on public.photo_generation_queue ("completedAt")
where "completedAt" is not null;

-- What failed lately, which is little of what ended lately: the operator's page.
create index if not exists photo_generation_queue_failed
on public.photo_generation_queue ("completedAt" desc)
where status = 'failed';

-- Ended jobs whose folder in Storage may hold objects without a row: a sweep takes its head. Whom no sweep has
-- tried comes first, then whom it tried longest ago, so that a folder that cannot be read holds nobody up.
--
-- A job that was completed under its only claim is not in here, which leaves out nearly all jobs, because it has
-- no such object. Only a claim writes to the folder, and it stores at most one object for each image: the retry
-- within a call is over before anything is stored, and an upload that is repeated has the same bytes, hence the same
-- name. If that object is not recorded, its image stays missing, and a job with a missing image is not completed.
-- So it takes a second claim to make a second object of an image, or an end other than `completed` to leave the
-- first without a row. (What something other than a worker has put there is not the sweep's to find.)
create index if not exists photo_generation_queue_unswept
on public.photo_generation_queue ("sweepUntil" nulls first, "completedAt")
where "sweptAt" is null and status in ('completed', 'failed', 'cancelled')
and (claims > 1 or (claims > 0 and status <> 'completed'));

-- A user's own photos, newest first (row-level security filters by user).
create index if not exists photo_generation_photos_user
on public.photo_generation_photos ("userId", "createdAt" desc);

-- A model's latest photos: the claim reads their latency.
create index if not exists photo_generation_photos_model
on public.photo_generation_photos (model, "createdAt" desc);

-- What was refused lately: statistics. The table is only inserted into and small, so it costs little.
create index if not exists failed_images_age on generation.failed_images ("createdAt");

-- The last run.
create index if not exists runs_started on generation.runs ("startedAt" desc);

-- The runs under way: a claim counts them.
create index if not exists runs_open on generation.runs ("endsBy") where "finishedAt" is null;

-- The oldest keys: pruning.
create index if not exists idempotency_keys_age on generation.idempotency_keys ("createdAt");

-- The signed-in users for whom most requests were sent today: see put_off_users.
create index if not exists flows_requests on generation.flows ("requestsOn", "requestsSent") where "signedIn" and priority = 0;

-- The highest tag of a priority: where a new user joins while nothing is ready.
create index if not exists flows_last on generation.flows (priority, "lastTag" desc);
