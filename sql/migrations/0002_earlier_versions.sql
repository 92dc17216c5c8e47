-- What installations from before migrations lack. Nothing of it changes a new one.

alter table public.photo_generation_queue
add column if not exists suspect boolean not null default false,
add column if not exists "sweptAt" timestamptz,
add column if not exists "sweepUntil" timestamptz,
add column if not exists "waitingSince" timestamptz;

-- Before claims were counted, a job that had been claimed may have been so more than once: its folder is swept.
do $$
begin
  if not exists (
    select from pg_catalog.pg_attribute as a
    where a.attrelid = 'public.photo_generation_queue'::regclass and a.attname = 'claims'
  ) then
    alter table public.photo_generation_queue add column claims integer not null default 0;
    update public.photo_generation_queue set claims = 2 where "startedAt" is not null;
  end if;
end
$$;

-- Photos and failed images were bound to their job alone; job ids can start again.
do $$
begin
  if exists (
    select from pg_catalog.pg_constraint as k
    where k.conrelid = 'public.photo_generation_photos'::regclass and k.conname = 'photo_generation_photos_once'
      and cardinality(k.conkey) = 2
  ) then
    alter table public.photo_generation_photos
    drop constraint photo_generation_photos_once,
    add constraint photo_generation_photos_once unique ("batchId", "jobId", "imageIndex");
  end if;
end
$$;

-- The batch of a failed image is its job's; where the job is gone, or younger because ids have started again, it is '', which no
-- batch has.
do $$
begin
  if not exists (
    select from pg_catalog.pg_attribute as a
    where a.attrelid = 'generation.failed_images'::regclass and a.attname = 'batchId'
  ) then
    alter table generation.failed_images add column "batchId" text not null default '';
    alter table generation.failed_images alter column "batchId" drop default;
    update generation.failed_images as f set "batchId" = q."batchId"
    from public.photo_generation_queue as q where q.id = f."jobId" and q."createdAt" <= f."createdAt";
    alter table generation.failed_images drop constraint failed_images_pkey, add primary key ("batchId", "jobId", "imageIndex");
  end if;
end
$$;

alter table generation.runs
add column if not exists "rescuedAt" timestamptz,
add column if not exists "claimIds" uuid[] not null default '{}';

alter table generation.flows
add column if not exists "retryTag" bigint not null default 0,
add column if not exists "orderedOn" date,
add column if not exists "imagesOrdered" integer not null default 0,
add column if not exists "requestsOn" date,
add column if not exists "requestsSent" integer not null default 0,
add column if not exists "signedIn" boolean not null default false,
drop column if exists "emptyOn",
drop column if exists "emptyAnswers";

alter table generation.models
add column if not exists "announcedEnd" date,
add column if not exists "announcedSuccessor" text,
add column if not exists source text,
add column if not exists "asOf" date;

alter table generation.gates
add column if not exists "busySince" timestamptz,
add column if not exists "probeAt" timestamptz,
add column if not exists "probedAt" timestamptz,
add column if not exists "answeredBy" text;

alter table generation.limits
add column if not exists "storageRefused" jsonb,
add column if not exists "storageProvedAt" timestamptz,
add column if not exists "storageRelapses" integer not null default 0,
add column if not exists "allowAnonymous" boolean not null default false,
add column if not exists "userImagesQueued" integer default 500
constraint limits_user_queued check ("userImagesQueued" >= 0),
add column if not exists "userImagesPerDay" integer default 1000
constraint limits_user_images check ("userImagesPerDay" >= 0),
add column if not exists "userDollarsPerDay" numeric default 20
constraint limits_user_dollars check ("userDollarsPerDay" >= 0);

-- Indexes that 0003 makes otherwise, or that nothing reads any more.
drop index if exists public.photo_generation_photos_batch;
drop index if exists public.photo_generation_queue_waiting_since;
