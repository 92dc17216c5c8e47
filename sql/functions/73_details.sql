-- One batch or job from close by, for whoever is asked about it. Refusals: PT400 (a parameter), PT404 (`no_such_order`).

-- A job with its images: {id, status, attempts, maxAttempts, crashes, claims, exampleImageId, retryAt, lockedBy, lockedAt,
-- leaseExpiresAt, errorCode, errorMessage, createdAt, startedAt, completedAt, images: [{index, state, storagePath, width,
-- height, model, generationMs, code, message, at}]}. An image's `state` is made, refused (given up) or missing.
create or replace function generation.job_details(p_job public.photo_generation_queue) returns jsonb
language sql stable set search_path = ''
as $$
  select jsonb_build_object('id', p_job.id, 'status', p_job.status, 'attempts', p_job.attempts,
    'maxAttempts', p_job."maxAttempts", 'crashes', p_job.crashes, 'claims', p_job.claims,
    'exampleImageId', p_job."exampleImageId", 'retryAt', p_job."retryAt", 'lockedBy', p_job."lockedBy",
    'lockedAt', p_job."lockedAt", 'leaseExpiresAt', p_job."leaseExpiresAt", 'errorCode', p_job."errorCode",
    'errorMessage', p_job."errorMessage", 'createdAt', p_job."createdAt", 'startedAt', p_job."startedAt",
    'completedAt', p_job."completedAt", 'images', (
      select jsonb_agg(jsonb_build_object('index', i.index,
        'state', case when p.id is not null then 'made' when f."jobId" is not null then 'refused' else 'missing' end,
        'storagePath', p."storagePath", 'width', p.width, 'height', p.height, 'model', p.model,
        'generationMs', p."generationMs", 'code', case when p.id is null then f.code end,
        'message', case when p.id is null then f.message end, 'at', coalesce(p."createdAt", f."createdAt")) order by i.index)
      from generate_series(0, p_job."numImagesPerExample" - 1) as i (index)
      left join public.photo_generation_photos as p
        on p."jobId" = p_job.id and p."batchId" = p_job."batchId" and p."imageIndex" = i.index
      left join generation.failed_images as f
        on f."jobId" = p_job.id and f."batchId" = p_job."batchId" and f."imageIndex" = i.index))
$$;

-- A batch with its jobs, or one job with its batch, whichever has the id: {at, found, batch: {id, userId, status, counters,
-- createdAt, completedAt}, jobs: [as job_details gives each]}; `found` is batch or job. Of a batch come the first 200 jobs,
-- failed ones before others. Errors: PT400, PT404. Safe to repeat: reads only.
create or replace function public.generation_details(p_id text) returns jsonb
language plpgsql stable security definer set search_path = '' set timezone = 'UTC'
as $$
declare
  v_batch public.photo_generation_batches;
  v_job bigint;
begin
  perform generation.require_service();
  if coalesce(p_id, '') = '' then
    perform generation.refuse('400', 'missing', 'p_id is missing', 'Name a batch or a job.');
  end if;
  select b.* into v_batch from public.photo_generation_batches as b where b.id = p_id;
  if not found and p_id ~ '^[0-9]{1,18}$' then
    select q.id into v_job from public.photo_generation_queue as q where q.id = p_id::bigint;
    select b.* into v_batch from public.photo_generation_batches as b
    where b.id = (select q."batchId" from public.photo_generation_queue as q where q.id = v_job);
  end if;
  if v_batch.id is null then
    perform generation.refuse('404', 'no_such_order', 'there is no batch and no job with this id',
      'Check it; what ended long ago may have been pruned.');
  end if;
  return jsonb_build_object('at', generation.clock(), 'found', case when v_job is null then 'batch' else 'job' end,
    'batch', to_jsonb(v_batch), 'jobs', (
      select coalesce(jsonb_agg(generation.job_details(q) order by q.status = 'failed' desc, q.id), '[]')
      from (
        select s.* from public.photo_generation_queue as s
        where s."batchId" = v_batch.id and (v_job is null or s.id = v_job)
        order by s.status = 'failed' desc, s.id limit 200
      ) as q));
end
$$;
