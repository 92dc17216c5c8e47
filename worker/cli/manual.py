"""The texts of `--help`: what each command does, an example, and its output."""

EXIT_CODES = """\
exit codes:
  0  success (jobs may have failed; the summary counts them)
  1  the run failed, a check failed, or Supabase could not be reached or refused the call
  2  the arguments, a file or the settings are invalid; all problems with the settings are listed
"""

MAIN = """\
Processes the photo queue, and monitors and controls it. Results go to stdout, the log to stderr.

Settings are environment variables; docs/settings.md explains each one. They are also read from a .env file
in the working directory; exported variables take precedence. Only tick, run, drain and check need
GEMINI_API_KEY.

example:
  python -m worker check && python -m worker tick
"""

TICK = """\
Does one run: claims the jobs that are ready, makes their photos, settles the jobs and prints a summary. It
ends within INVOCATION_TIMEOUT_SECONDS. Ctrl-C ends it within 10 s; it then releases the jobs that it had
not started.

example:
  python -m worker tick --max-jobs 5

output: the run's summary, one line of JSON
  {"runId": "...", "stopReason": "queue_empty", "claimed": 5, "completed": 5, "failed": 0, ...}
"stopReason" says why the run ended; "failuresByCode" counts the failed jobs by errorCode.
With "misconfigured", "problem" says what to fix, and the exit code is 1.
With --dry-run it claims nothing and prints the jobs that are next, even if the gate is closed:
  {"jobs": [{"id": 7, "batchId": "...", "status": "pending", "images": 4, ...}], "reason": null, ...}
"""

RUN = """\
Does one run after the other until SIGTERM or Ctrl-C, which end it within 10 s with exit code 0; a second
signal ends it at once. If no job is due, it sleeps until the next retry, at most MAX_IDLE_SECONDS. If
Supabase cannot be reached or something is misconfigured, it logs an error and retries less and less often,
at least every five minutes. So it notices a fix that needs no restart, such as billing. Invalid settings
end it at once with exit code 2; then a restart does not help.

example:
  MAX_IDLE_SECONDS=10 python -m worker run

output: nothing on stdout; the log on stderr, one line for each event
  2026-11-25T12:00:01Z job_completed run=... job=7 batch=... attempt=1 code=None
"""

DRAIN = """\
Does one run after the other until the queue is empty, and ends with exit code 0. If jobs wait for a quota,
for other runs or for a retry, it waits for the next one if that is due within --patience, and otherwise
ends too; "stopReason" says why. If something is misconfigured, or five consecutive runs cannot reach
Supabase, it ends with exit code 1. SIGTERM or Ctrl-C end it within 10 s. A Cloud Run job can drain a large
backlog with it (docs/deploy.md).

example:
  python -m worker drain --patience 300

output: the log on stderr; at the end the totals of all runs, one line of JSON
  {"runs": 12, "stopReason": "queue_empty", "claimed": 1140, "completed": 1138, ..., "imagesMade": 4552, ...}
"""

ENQUEUE = """\
Enqueues an order from a JSON file (- for stdin) for the user that it names. With an idempotency key the same
order can be sent again safely: the answer is the first one's, with "created": false.

example:
  echo '{"userId": "u1", "basePrompt": "A portrait by the sea", "numImagesPerExample": 2,
         "trainingImageUrls": ["training-photos/u1/me.jpg"],
         "exampleImages": [{"url": "training-photos/u1/beach.jpg"}]}' |
    python -m worker enqueue - --idempotency-key order-4711

output: the batch, one line of JSON, or an error that says what is wrong with the order
  {"batchId": "...", "jobIds": [7], "jobsEnqueued": 1, "imagesEnqueued": 2, "created": true}
"""

STATUS = """\
Shows the queue's health in one sentence, with what to do, and its numbers: jobs that are ready, waiting, rate
limited and in progress; jobs that ended in the last 24 hours; the last run and why it ended. "stale" jobs are
those whose worker died. A terminal also shows ages, percentiles and sparklines if it is tall enough. --watch
refreshes the output until Ctrl-C, also after an outage of the database.

example:
  python -m worker status --watch

output: tables on a terminal, plain text elsewhere, or with --json one line of JSON
  {"ready": 3, "waiting": 1, "rateLimited": 0, "processing": 2, "stale": 0, "lastDay": {...}, ...}
"""

SHOW = """\
Shows one batch with its jobs, or one job: its state, attempts and error, and for each image where it is
stored, why it was refused, or that it is missing.

example:
  python -m worker show 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43
  python -m worker show 7

output: text, or with --json one line of JSON
  batch 0b0c41d2-...: partial
    images: 1 of 2 made, 1 failed
  job 7: completed
    image 0   made     1d4.../0b0c.../7/0-5f1c...  1024 × 1024, gemini-2.5-flash-image
    image 1   refused  Gemini refused the image (safety)
"""

RELEASE_STALE = """\
Releases jobs that have been locked for too long, so that they are ready again. The next run does this by
itself for jobs whose worker died. A run lasts less than five minutes, so with less than 300 seconds you may
release jobs of a running worker: nothing breaks, but photos may be made and paid for twice.

example:
  python -m worker release-stale --older-than-seconds 300

output: the number of released jobs, one line of JSON
  {"released": 2}
"""

RETRY_FAILED = """\
Retries failed jobs, with all their attempts; only missing photos are made. Jobs whose missing photos were all
refused by Gemini are not retried, except with --including-refused.

example:
  python -m worker retry-failed --batch 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43

output: the number of jobs, one line of JSON; if it equals --limit, there may be more
  {"retried": 3}
"""

GATE = """\
The rate gate limits how many images all workers together start. `show` shows the current rates, the rates
learned from 429s, the daily caps and whether generation is paused. `set` changes a rate (images per minute,
per model), a cap (for all models) or the limits of signed-in users. Changes apply to the next start of
every worker and to the next order; they need no deploy. `set` refuses an unknown model, except with
--new-model.
`pause` stops all starts; `resume` ends the pause and every block, also that of a daily quota. `remove`
removes the gate of a model that has started no image within a day.

example:
  python -m worker gate show
  python -m worker gate set --rate 30
  python -m worker gate set --dollars-per-day 20 --images-per-day none
  python -m worker gate set --user-images-queued 200 --user-dollars-per-day 10
  python -m worker gate set --allow-anonymous yes
  python -m worker gate remove gemini-3-pro-image
  python -m worker gate pause "the bill looks odd"
  python -m worker gate resume

output: the gate after the change
  gemini-2.5-flash-image: 30 starts per minute, 412 today
  today: at most $16.07 of $20.00 spent; images per day: no cap
  each user: 200 images waiting; 1000 images or $10.00 per day (now 256 images)
  runs: 1 of 3; a job waits at most 72 hours for quota
  anonymous users may not order
"""

MODELS = """\
Shows the database's table of Gemini's models: price per image, announced end, successor. `set` corrects a row
for all workers, without a deploy; installing the SQL again keeps the correction. If Google answers 404 for a
model, the database marks it as retired; `set MODEL --available` removes the mark.

example:
  python -m worker models list
  python -m worker models set gemini-2.5-flash-image --ends 2027-03-15 --source "Gemini API deprecations"

output: one line per model, or with --json one line of JSON
  gemini-2.5-flash-image: $0.039 an image; ends 2027-03-15; successor gemini-nano-banana-2.1
"""

HOSTS = """\
Shows the hosts that https:// photos may come from. An order with a photo from another host is refused, and
redirects to other hosts are not followed. `*.example.com` allows all subdomains of example.com, but not
example.com itself; `*` allows any public host. Each run adds the project's own host if it is missing, so
`remove` refuses that host. Changes apply to the next order and the next run.

example:
  python -m worker hosts list
  python -m worker hosts add photos.example.com
  python -m worker hosts add "*.cdn.example.com"
  python -m worker hosts remove "*"

output: one line per host, or with --json one line of JSON
  *.cdn.example.com
  abc.supabase.co (this project's own)
  photos.example.com
"""

PHOTO = """\
Fetches and prepares a source photo as a run does, and writes to a file what Gemini would get: upright, at
most PHOTO_MAX_EDGE pixels long, without metadata. If the photo cannot be used, it says why; the exit code
is 1.

example:
  python -m worker photo training-photos/USER_ID/me.heic --out me.jpg

output: the size of the photo's file, and the size and type of what is sent, one line of JSON
  {"bytes": 2412034, "sentBytes": 503214, "sentType": "image/jpeg"}
"""

CANCEL = """\
Cancels the unfinished jobs of a batch. Finished photos are kept; photos in progress are discarded.

example:
  python -m worker cancel 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43

output: the batch, one line of JSON; a batch that has ended does not change
  {"batchId": "...", "status": "cancelled", "jobsCancelled": 4}
"""

SWEEP = """\
Removes orphaned objects, which are in Storage but have no row: photos of workers that died between storing
and recording them, second copies, photos that came too late for a cancelled order. Checks only the folders
of jobs that ended at least ten minutes ago, and never removes a photo that has a row. Also empties the
folders of erased users. Takes at most a minute; the next sweep does the rest.

example:
  python -m worker sweep --limit 100

output: the counts, one line of JSON; "more": true means that there is more to sweep
  {"jobsSwept": 12, "objectsRemoved": 3, "bytesRemoved": 5120, "erasuresDone": 0, "failures": 0, ...}
"""

PRUNE = """\
Removes old history: batches that ended long ago with their jobs, finished runs, and idempotency keys 60 days
later. Keeps photos and their rows. Keeps a batch while one of its jobs waits for a sweep, and counts it in
"unswept".

example:
  python -m worker prune --older-than-days 30

output: the counts, one line of JSON; "more": true means that there is more to remove
  {"more": false, "unswept": 0, "jobsRemoved": 40, "keysRemoved": 0, "runsRemoved": 7, "batchesRemoved": 9}
"""

ERASE = """\
Erases a user: all orders (also those in progress), all rows and all generated photos. Asks you to type the
user id again, except with --yes. Removes all rows at once, and photos for up to a minute. The sweep removes
the rest, and checks again after ten minutes, when no upload can be in progress. The user cannot order until
that is done. Does not delete source photos in the app's own buckets or the user's account. Delete the
account first.

example:
  python -m worker erase '0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43' --yes

output: the counts, one line of JSON
  {"jobsRemoved": 3, "photosRemoved": 12, "userFolder": "0b0c...", "objectsRemoved": 12, "more": false, ...}
"""

CHECK = """\
Checks everything that a run needs: the settings, Supabase and its key, the database functions and their
access rights, the buckets, the hosts of photos, Gemini's key and model, and the credentials of the HTTP
function. Also warns if a pause, a reached cap or a long block stops all starts, if a model ends soon, and
if the database's clock was ahead and set retry times that are too late. Changes nothing and costs nothing.

With --project and --region it also checks the service deployed on Cloud Run: its timeout, concurrency,
instances, memory, variables, and who may call it. It compares the values of variables, but never shows them.
This needs Google credentials: gcloud auth application-default login.

example:
  python -m worker check
  python -m worker check --project my-photos-4711 --region us-central1

output: one line per check, with the fix below each problem
  ok       supabase  answers and accepts the key
  failed   bucket    there is no bucket generated-photos
                     fix: run sql/install.sql in the Supabase SQL editor, or psql …
or with --json one line: {"ok": true, "findings": [{"name", "state", "message", "mend", "ok"}, ...]}
Exit code 0: the worker can work, perhaps with warnings. 1: a check failed. 2: the settings are invalid.
"""
