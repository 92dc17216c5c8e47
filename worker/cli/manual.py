"""What `--help` teaches: of each command what it does, an example, and what one will see."""

EXIT_CODES = """\
exit codes:
  0  it was done (jobs may have failed: the summary counts them)
  1  the run failed, something was found wrong, the queue could not be reached or refused
  2  the arguments, a file or the settings cannot be used; all problems with the settings are listed at once
"""

MAIN = """\
Works the queue of generated photos off, and looks after it. Results go to stdout, the log to stderr.

Settings are environment variables; docs/settings.md explains each. A .env in the working directory is read
too; what is exported takes precedence. GEMINI_API_KEY is needed by tick, run, drain and check only.

example:
  python -m worker check && python -m worker tick
"""

TICK = """\
Does one run: claims what is ready, makes the photos, settles the jobs, sums up. It ends by itself, within
INVOCATION_TIMEOUT_SECONDS; Ctrl-C ends it within 10 s and gives back what was not started.

example:
  python -m worker tick --max-jobs 5

you will see the run's summary, one line of JSON:
  {"runId": "...", "stopReason": "queue_empty", "claimed": 5, "completed": 5, "failed": 0, ...}
stopReason says why it ended, "failuresByCode" how many jobs failed with which errorCode.
With "misconfigured", "problem" says what to mend, and the exit code is 1.
With --dry-run nothing is claimed, and you see the jobs that are next in line, whatever the gate says:
  {"jobs": [{"id": 7, "batchId": "...", "status": "pending", "images": 4, ...}], "reason": null, ...}
"""

RUN = """\
Does one run after the other until SIGTERM or Ctrl-C, which end it within 10 s with exit code 0; a second
signal ends it at once. Sleeps while nothing is due: until the next retry, at most MAX_IDLE_SECONDS. When
Supabase cannot be reached, or something is misconfigured, it says so in the log and goes on trying, ever
less often (after five minutes at most): what is mended without a restart, like billing, is noticed.
Settings that cannot be used end it at once with exit code 2; there a restart does not help.

example:
  MAX_IDLE_SECONDS=10 python -m worker run

you will see the log on stderr, one line for each thing that happened to a job, and nothing on stdout:
  2026-11-25T12:00:01Z job_completed run=... job=7 batch=... attempt=1 code=None
"""

DRAIN = """\
Does one run after the other until the queue is empty, and ends with exit code 0. Where a quota, other runs or
a retry stand in the way, it waits until the next attempt is due, if that is within --patience, and else ends
too; stopReason says why. Misconfigured, or without Supabase for five runs in a row, it ends with 1. SIGTERM
or Ctrl-C end it within 10 s. A Cloud Run job does this with a large backlog (docs/deploy.md).

example:
  python -m worker drain --patience 300

you will see the log on stderr, and in the end what all runs did, one line of JSON:
  {"runs": 12, "stopReason": "queue_empty", "claimed": 1140, "completed": 1138, ..., "imagesMade": 4552, ...}
"""

ENQUEUE = """\
Enqueues an order from a JSON file ("-" reads stdin) for the user it names. With an idempotency key the same
order can be sent again without harm: the answer is that of the first time, with "created": false.

example:
  echo '{"userId": "u1", "basePrompt": "A portrait by the sea", "numImagesPerExample": 2,
         "trainingImageUrls": ["training-photos/u1/me.jpg"],
         "exampleImages": [{"url": "training-photos/u1/beach.jpg"}]}' |
    python -m worker enqueue - --idempotency-key order-4711

you will see the batch, one line of JSON, or what is wrong with the order:
  {"batchId": "...", "jobIds": [7], "jobsEnqueued": 1, "imagesEnqueued": 2, "created": true}
"""

STATUS = """\
Says in a sentence how it is and what to do, then shows the queue in numbers: what is ready, waiting, put
aside by a rate limit, being worked on; what ended within 24 hours; the last run and why it ended. "stale"
jobs are those whose worker died. A terminal also shows ages, percentiles and sparklines, as many as its
height has. --watch does so again and again until Ctrl-C, and goes on when the database cannot be reached
for a while.

example:
  python -m worker status --watch

you will see tables, elsewhere than on a terminal plain text, or with --json one line each time:
  {"ready": 3, "waiting": 1, "rateLimited": 0, "processing": 2, "stale": 0, "lastDay": {...}, ...}
"""

SHOW = """\
Shows one batch with its jobs, or one job: its state in words, attempts, what went wrong, and of every image
where it is stored, why it was refused, or that it is still missing.

example:
  python -m worker show 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43
  python -m worker show 7

you will see text, or with --json one line:
  batch 0b0c41d2-...: partial
    images: 1 of 2 made, 1 failed
  job 7: completed
    image 0   made     1d4.../0b0c.../7/0-5f1c...  1024 × 1024, gemini-2.5-flash-image
    image 1   refused  Gemini refused the image (safety)
"""

RELEASE_STALE = """\
Makes jobs ready again that have been locked for long. The next run does that by itself for jobs whose
worker died. A run lasts less than five minutes, so with less than 300 seconds you may take jobs from a
living worker: nothing breaks, but photos may be made, and paid for, twice.

example:
  python -m worker release-stale --older-than-seconds 300

you will see how many, one line of JSON:
  {"released": 2}
"""

RETRY_FAILED = """\
Takes failed jobs up again, with all their attempts; only the photos still missing are made. Jobs whose every
missing photo was refused by Gemini are left alone, unless you say --including-refused.

example:
  python -m worker retry-failed --batch 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43

you will see how many, one line of JSON; as many as --limit means that there may be more:
  {"retried": 3}
"""

GATE = """\
The rate gate lets all workers together start at the rate that is allowed. `show` tells the rate in force,
what 429s taught, the daily caps and whether it is paused. `set` changes a rate (images per minute, per
model), a cap (for all models) or what one signed-in user may order; all hold for every worker from its
next start on, for orders from the next one on, without a deploy.
`pause` stops every start, `resume` ends the pause and every block, a daily one too. `remove` takes away the
gate of a model that gave out no start within a day. `set` refuses a model that nothing knows, unless you say
--new-model.

example:
  python -m worker gate show
  python -m worker gate set --rate 30
  python -m worker gate set --dollars-per-day 20 --images-per-day none
  python -m worker gate set --user-images-queued 200 --user-dollars-per-day 10
  python -m worker gate set --allow-anonymous yes
  python -m worker gate remove gemini-3-pro-image
  python -m worker gate pause "the bill looks odd"
  python -m worker gate resume

you will see the gate as it is then:
  gemini-2.5-flash-image: 30 starts per minute, 412 today
  today: at most $16.07 of $20.00 spent; images a day: no cap
  each user: 200 images waiting; 1000 images or $10.00 a day (now 256 images)
  runs: 1 of 3; a job waits at most 72 hours for a quota
  anonymous users may not order
"""

MODELS = """\
Shows what the database knows of Gemini's models: what an image costs, the announced end, the successor. `set`
corrects a row for every worker, without a deploy; installing the SQL again does not change it back. A model
that answers 404 is remembered as gone; `set MODEL --available` forgets that.

example:
  python -m worker models list
  python -m worker models set gemini-2.5-flash-image --ends 2027-03-15 --source "Gemini API deprecations"

you will see a line for each model, or with --json one line of JSON:
  gemini-2.5-flash-image: $0.039 an image; ends 2027-03-15; then gemini-nano-banana-2.1
"""

HOSTS = """\
Shows the hosts that https:// photos may come from. An order with a photo of another host is refused, and no
redirect to another host is followed. `*.example.com` stands for every host below example.com, not for that
one itself; `*` for any public host. The project's own host is added by every run that does not find it, so
`remove` refuses it. `add` and `remove` hold for orders and runs from the next one on.

example:
  python -m worker hosts list
  python -m worker hosts add photos.example.com
  python -m worker hosts add "*.cdn.example.com"
  python -m worker hosts remove "*"

you will see a line for each host, or with --json one line of JSON:
  *.cdn.example.com
  abc.supabase.co (this project's own)
  photos.example.com
"""

CANCEL = """\
Cancels what a batch still waits for. Photos that are made stay; what is being made right now is discarded.

example:
  python -m worker cancel 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43

you will see the batch, one line of JSON; a batch that had ended stays as it was:
  {"batchId": "...", "status": "cancelled", "jobsCancelled": 4}
"""

SWEEP = """\
Removes stored objects that no row tells of: those of workers that died between storing and recording a
photo, second copies, what came late for a cancelled order. Looks only into folders of jobs that ended at
least ten minutes ago, and never touches a photo that has a row. Also empties the folders of erased users.
Takes a minute at most; what it did not get to is done the next time.

example:
  python -m worker sweep --limit 100

you will see what was done, one line of JSON; "more" means that another sweep has something to do:
  {"jobsSwept": 12, "objectsRemoved": 3, "bytesRemoved": 5120, "erasuresDone": 0, "failures": 0, ...}
"""

PRUNE = """\
Removes what ended long ago: whole batches with their jobs, and finished runs; idempotency keys 60 days
later. Photos stay, with their rows. A batch one of whose jobs still waits for a sweep is left alone, and
counted in "unswept".

example:
  python -m worker prune --older-than-days 30

you will see what was removed, one line of JSON; "more" means that there is more of it:
  {"more": false, "unswept": 0, "jobsRemoved": 40, "keysRemoved": 0, "runsRemoved": 7, "batchesRemoved": 9}
"""

ERASE = """\
Erases a user: every order, also what is being made right now, every row, every generated photo. Asks for
the user id once more, unless you say --yes. The rows go at once, the photos as far as a minute reaches; the
sweep removes the rest and looks again after ten minutes, when nothing can be on its way any more. Until it is
done the user cannot order. Source photos in the app's own buckets, and the account, are the app's to delete:
delete the account first.

example:
  python -m worker erase 0b0c41d2-6f2f-4c56-9d27-6f6b2f1b6e43 --yes

you will see what was removed, one line of JSON:
  {"jobsRemoved": 3, "photosRemoved": 12, "userFolder": "0b0c...", "objectsRemoved": 12, "more": false, ...}
"""

CHECK = """\
Looks at everything a run needs: the settings, Supabase and its key, the database functions, the bucket, the
hosts that photos may come from, the Gemini key and model, who may call the HTTP function, whether a pause, a
used-up cap or a long block keeps jobs from starting, whether a model ends soon, and whether a database clock
that was ahead has left waits behind. Changes nothing and costs nothing.

With --project and --region it also looks at the service deployed on Cloud Run: its timeout, concurrency,
instances, memory, variables and who may call it. Values are read to compare them and never shown. That needs
Google credentials: gcloud auth application-default login.

example:
  python -m worker check
  python -m worker check --project my-photos-4711 --region us-central1

you will see a line for each thing looked at, with the mend below what is wrong:
  ok       supabase  answers and accepts the key
  failed   bucket    there is no bucket generated-photos
                     mend: run sql/install.sql in the Supabase SQL editor, or psql …
or with --json one line: {"ok": true, "findings": [{"name", "state", "message", "mend", "ok"}, ...]}
Exit code 0: the worker can work (warnings allowed). 1: something failed. 2: it is the settings.
"""
