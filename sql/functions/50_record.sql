-- Workers record images, one at a time. Until the job is final, the first record of an image counts, even if another run holds the job.
-- Refusals: PT400 (an index or a path that the job does not have).

-- Locks the job for a record, so that a photo and a refusal of the same image cannot both be written.
-- Null when the job is gone or final, or has no such image.
create or replace function generation.open_job(p_job_id bigint) returns public.photo_generation_queue
language plpgsql set search_path = ''
as $$
declare
  v_job public.photo_generation_queue;
begin
  select q.* into v_job from public.photo_generation_queue as q
  where q.id = p_job_id and q.status not in ('completed', 'failed', 'cancelled')
  for no key update;
  return v_job;
end
$$;

-- Refuses an image index that the job does not have.
create or replace function generation.check_image_index(p_index integer, p_images integer) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if p_index is null or p_index not between 0 and p_images - 1 then
    perform generation.refuse('400', 'out_of_range', format('image index %s: the job has images 0 to %s', p_index, p_images - 1),
      'Record only images that the claim named as missing.');
  end if;
end
$$;

-- Records a stored image. p_photo is {storagePath, mimeType, width, height, bytes, model, promptTokens,
-- outputTokens, generationMs}. Returns {result, storagePath}: `recorded`; `already_recorded` with the path
-- that counts (the caller's own if its first answer was lost); `job_final` if the image is no longer wanted, because the job has
-- ended, or its id belongs to a job of another batch than the path names. An image that had been given up, and was made
-- after all, counts as made.
-- Errors: PT400. Locks: the job, then its batch.
-- Safe to repeat: one row per image, and only the call that inserts it counts it; the same path comes back.
create or replace function public.record_generated_photo(p_job_id bigint, p_image_index integer, p_photo jsonb)
returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_job public.photo_generation_queue;
  v_path constant text := p_photo ->> 'storagePath';
  v_own boolean;
  v_batch_id text;
  v_recorded text;
  v_given_up integer;
begin
  perform generation.require_service();
  perform generation.renew_plans();
  v_job := generation.open_job(p_job_id);
  v_own := v_job.id is not null
    and starts_with(v_path, format('%s/%s/%s/', generation.user_folder(v_job."userId"), v_job."batchId", v_job.id));
  -- The job may have ended, and be gone; the path still names its batch.
  v_batch_id := case when v_own then v_job."batchId" else split_part(v_path, '/', 2) end;
  select p."storagePath" into v_recorded from public.photo_generation_photos as p
  where p."batchId" = v_batch_id and p."jobId" = p_job_id and p."imageIndex" = p_image_index;
  if found then
    return jsonb_build_object('result', 'already_recorded', 'storagePath', v_recorded);
  elsif v_job.id is null or (split_part(v_path, '/', 3) = p_job_id::text and v_batch_id <> v_job."batchId") then
    return jsonb_build_object('result', 'job_final', 'storagePath', null);
  end if;
  perform generation.check_image_index(p_image_index, v_job."numImagesPerExample");
  if v_own is not true then
    perform generation.refuse('400', 'bad_path', 'storagePath must lie in the job''s own folder',
      'Store as {user}/{batch}/{job}/{index}-{hash}.');
  end if;

  delete from generation.failed_images as f
  where f."batchId" = v_job."batchId" and f."jobId" = p_job_id and f."imageIndex" = p_image_index;
  get diagnostics v_given_up = row_count;
  insert into public.photo_generation_photos ("jobId", "batchId", "userId", "imageIndex", "storagePath", "mimeType",
    width, height, bytes, model, "promptTokens", "outputTokens", "generationMs", "createdAt")
  values (v_job.id, v_job."batchId", v_job."userId", p_image_index, v_path, p_photo ->> 'mimeType',
    (p_photo ->> 'width')::integer, (p_photo ->> 'height')::integer, (p_photo ->> 'bytes')::integer,
    p_photo ->> 'model', (p_photo ->> 'promptTokens')::integer, (p_photo ->> 'outputTokens')::integer,
    (p_photo ->> 'generationMs')::integer, generation.clock());
  update public.photo_generation_batches as b
  set "imagesDone" = b."imagesDone" + 1, "imagesFailed" = b."imagesFailed" - v_given_up
  where b.id = v_job."batchId";
  perform generation.record_heartbeat(v_job."runId");
  return jsonb_build_object('result', 'recorded', 'storagePath', v_path);
end
$$;

-- Records that an image will never be made; it is not requested again. p_code is for programs, p_message for the person who
-- ordered. Returns {result}: `recorded`, `already_recorded` (as failed, or as a photo, which then stays) or
-- `job_final`, also if the job belongs to another batch than p_batch_id. Errors: PT400.
-- Locks: the job, then its batch.
-- Safe to repeat: an image that is given up is no longer missing, so it is neither inserted nor counted again.
create or replace function public.record_failed_image(
  p_job_id bigint, p_image_index integer, p_code text, p_message text, p_batch_id text default null
) returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_job public.photo_generation_queue;
begin
  perform generation.require_service();
  perform generation.renew_plans();
  v_job := generation.open_job(p_job_id);
  if v_job.id is null or p_batch_id <> v_job."batchId" then
    return jsonb_build_object('result', 'job_final');
  end if;
  perform generation.check_image_index(p_image_index, v_job."numImagesPerExample");
  if p_image_index <> all (generation.missing_images(v_job."batchId", v_job.id, v_job."numImagesPerExample")) then
    return jsonb_build_object('result', 'already_recorded');
  end if;
  insert into generation.failed_images ("batchId", "jobId", "imageIndex", code, message, "createdAt")
  values (v_job."batchId", p_job_id, p_image_index, p_code, p_message, generation.clock());
  update public.photo_generation_batches as b set "imagesFailed" = b."imagesFailed" + 1 where b.id = v_job."batchId";
  perform generation.record_heartbeat(v_job."runId");
  return jsonb_build_object('result', 'recorded');
end
$$;
