-- Orders come in, as a call of enqueue_generation_batch or as rows that an app inserts itself. Who the caller is comes from the role and
-- the token, never from the request. Refusals: PT400 (the message names the field), PT403 (`anonymous_user`), PT409 (idempotency key
-- reused with another request), PT413 (`order_too_large`), PT429 (a limit per user).

-- Refuses a request that is larger than generate_images takes, is no order, or has a field or a number where none belongs, before
-- anything else looks into it. jsonb keeps 1e131071 or 0e-16383 in a few bytes, and their texts have 131 072 and 16 385: until this has
-- passed, nothing may make text of the request, and its size is that of the jsonb.
create or replace function generation.check_request(p_request jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_fields text[] := array['basePrompt', 'aspectRatio', 'numImagesPerExample', 'exampleImages', 'trainingImageUrls',
    'glasses', 'hairColor', 'hairStyle', 'backgrounds', 'styles'];
  v_operators constant text[] := array['userId', 'priority', 'maxAttempts'];
  v_numbers constant text[] := array['numImagesPerExample', 'priority', 'maxAttempts'];
  v_field text;
begin
  if pg_column_size(p_request) > 1048576 then
    perform generation.refuse('413', 'order_too_large',
      format('the request has %s bytes, more than 1048576', pg_column_size(p_request)),
      'Order fewer example images at once, or shorten their prompts and addresses.');
  elsif p_request is null or jsonb_typeof(p_request) <> 'object' then
    perform generation.refuse('400', 'wrong_type', 'the request must be a JSON object',
      'Send {"basePrompt": …, "exampleImages": […], …}.');
  elsif not generation.caller_is_user() then
    v_fields := v_fields || v_operators;
  elsif p_request ?| v_operators then
    select k into v_field from unnest(v_operators) as k where p_request ? k limit 1;
    perform generation.refuse('400', 'not_yours_to_set', format('%s cannot be set by a signed-in user', v_field),
      'Leave it out: the user comes from the token, the rest from defaults.');
  end if;
  perform generation.refuse_unknown_fields(p_request, v_fields, 'request');
  select f.name || coalesce(format('[%s]', e.i - 1), '') into v_field
  from jsonb_each(p_request) as f (name, value)
  left join lateral jsonb_array_elements(case when jsonb_typeof(f.value) = 'array' then f.value end) with ordinality as e (value, i)
    on true
  where coalesce(e.value, f.value) @? '$.** ? (@.type() == "number")'
    and not (f.name = any (v_numbers) and jsonb_typeof(f.value) = 'number')
  limit 1;
  if v_field is not null then
    perform generation.refuse('400', 'wrong_type', format('%s has a number where none belongs', v_field),
      'Send a JSON string: only ' || array_to_string(v_numbers, ', ') || ' are numbers.');
  end if;
end
$$;

-- The user an order belongs to: the token's subject for a signed-in user, `userId` of the request for
-- the service role and for SQL sessions. PT403 for an anonymous user unless the operator lets them order.
create or replace function generation.ordering_user(p_request jsonb) returns text
language plpgsql stable set search_path = ''
as $$
declare
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  v_user_id text;
begin
  if generation.caller_is_user() then
    if v_claims ->> 'is_anonymous' = 'true' and not (select l."allowAnonymous" from generation.limits as l) then
      perform generation.refuse('403', 'anonymous_user', 'anonymous users may not order',
        'Sign in with an account. The operator can allow it: python -m worker gate set --allow-anonymous yes');
    end if;
    v_user_id := coalesce(v_claims ->> 'sub',
      generation.refuse('400', 'missing', 'the token names no user', 'Sign in again.'));
  else
    v_user_id := coalesce(generation.checked_text(p_request -> 'userId', 'userId', 200),
      generation.refuse('400', 'missing', 'userId is missing', 'Name the user this batch is for.'));
  end if;
  perform generation.check_folder(generation.user_folder(v_user_id), 'user id');
  return v_user_id;
end
$$;

-- One example image of an order: its reference, its own prompt and its id, checked.
create or replace function generation.checked_example(p_example jsonb, p_user_id text, p_field text) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_url text;
begin
  if jsonb_typeof(p_example) <> 'object' then
    perform generation.refuse('400', 'wrong_type', format('%s must be an object', p_field),
      'Send {"id": …, "url": …, "prompt": …}; only url is required.');
  end if;
  perform generation.refuse_unknown_fields(p_example, array['id', 'url', 'prompt'], p_field);
  v_url := coalesce(generation.checked_text(p_example -> 'url', p_field || '.url', 2048),
    generation.refuse('400', 'missing', p_field || '.url is missing', 'Name the example photo.'));
  perform generation.check_photo(v_url, p_user_id, p_field || '.url');
  return jsonb_build_object(
    'id', generation.checked_text(p_example -> 'id', p_field || '.id', 200),
    'url', v_url,
    'prompt', generation.checked_text(p_example -> 'prompt', p_field || '.prompt', 4000));
end
$$;

-- The person's own photos of an order, each reference checked.
create or replace function generation.checked_training_photos(p_value jsonb, p_user_id text) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  -- 14 photos go into one request at most (the limit of gemini-3.1-flash-image): one of them is the example.
  v_photos jsonb := generation.checked_array(p_value, 'trainingImageUrls', 1, 13);
  v_url text;
begin
  for v_index in 0 .. jsonb_array_length(v_photos) - 1 loop
    v_url := coalesce(
      generation.checked_text(v_photos -> v_index, format('trainingImageUrls[%s]', v_index), 2048),
      generation.refuse('400', 'missing', format('trainingImageUrls[%s] is null', v_index), 'Name a photo.'));
    perform generation.check_photo(v_url, p_user_id, format('trainingImageUrls[%s]', v_index));
    v_photos := jsonb_set(v_photos, array[v_index::text], to_jsonb(v_url));
  end loop;
  return v_photos;
end
$$;

-- `glasses` may be said as true or false as well as in words.
create or replace function generation.checked_glasses(p_value jsonb) returns text
language sql immutable set search_path = ''
as $$
  select case when jsonb_typeof(p_value) = 'boolean' then p_value #>> '{}'
    else generation.checked_text(p_value, 'glasses', 200) end
$$;

-- The whole order, checked and with its defaults filled in, in the shape of the queue's columns.
create or replace function generation.checked_order(p_request jsonb, p_user_id text) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
  v_ratios constant text[] := array['1:1', '2:3', '3:2', '3:4', '4:3', '4:5', '5:4', '9:16', '16:9', '21:9'];
  v_ratio text := coalesce(generation.checked_text(p_request -> 'aspectRatio', 'aspectRatio', 10), '1:1');
begin
  if v_ratio <> all (v_ratios) then
    perform generation.refuse('400', 'unsupported_aspect_ratio', format('aspectRatio "%s" is not supported', v_ratio),
      'Use one of ' || array_to_string(v_ratios, ', ') || '.');
  end if;
  return jsonb_build_object(
    'basePrompt', coalesce(generation.checked_text(p_request -> 'basePrompt', 'basePrompt', 4000),
      generation.refuse('400', 'missing', 'basePrompt is missing', 'Say what the photos should show.')),
    'aspectRatio', v_ratio,
    'numImages', generation.checked_integer(p_request -> 'numImagesPerExample', 'numImagesPerExample', 1, 10, 4),
    'examples', (
      select jsonb_agg(generation.checked_example(e, p_user_id, format('exampleImages[%s]', i - 1)) order by i)
      from jsonb_array_elements(generation.checked_array(p_request -> 'exampleImages', 'exampleImages', 1, 100))
        with ordinality as a (e, i)),
    'trainingPhotos', generation.checked_training_photos(p_request -> 'trainingImageUrls', p_user_id),
    'glasses', generation.checked_glasses(p_request -> 'glasses'),
    'hairColor', generation.checked_text(p_request -> 'hairColor', 'hairColor', 200),
    'hairStyle', generation.checked_text(p_request -> 'hairStyle', 'hairStyle', 200),
    'backgrounds', generation.checked_texts(p_request -> 'backgrounds', 'backgrounds'),
    'styles', generation.checked_texts(p_request -> 'styles', 'styles'),
    'priority', generation.checked_integer(p_request -> 'priority', 'priority', -100, 100, 0),
    'maxAttempts', generation.checked_integer(p_request -> 'maxAttempts', 'maxAttempts', 1, 20, 5));
end
$$;

-- Refuses an order whose jobs would hold more than 4 MiB of text that they share: all but the example images stands in each job's
-- row. An order in ASCII has less, however long its fields are.
create or replace function generation.check_shared_text(p_order jsonb) returns void
language plpgsql immutable set search_path = ''
as $$
declare
  v_jobs constant integer := jsonb_array_length(p_order -> 'examples');
  v_bytes constant integer := octet_length((p_order - 'examples')::text);
begin
  if v_jobs * v_bytes > 4194304 then
    perform generation.refuse('413', 'order_too_large',
      format('the %s jobs of this order share %s bytes of text each, more than 4194304 bytes together', v_jobs, v_bytes),
      format('Order at most %s example images at once, or shorten the prompt, the lists or the addresses.', 4194304 / v_bytes));
  end if;
end
$$;

-- Lets a user order, or refuses with PT409 while the user is being erased: what is ordered then would lose its
-- photos. Holds an erasure up until the end of the transaction.
create or replace function generation.enter_user(p_user_id text) returns void
language plpgsql set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock_shared(generation.lock_class('user'), hashtext(p_user_id));
  if exists (select from generation.erasures as e where e."userFolder" = generation.user_folder(p_user_id)) then
    perform generation.refuse('409', 'user_being_erased', 'this user is being erased', 'Order again once the erasure is done.');
  end if;
end
$$;

-- Inserts the batch of a checked order and its jobs; returns enqueue's answer.
create or replace function generation.insert_batch(p_order jsonb, p_user_id text) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_batch_id text;
  v_jobs integer := jsonb_array_length(p_order -> 'examples');
  v_images integer := (p_order ->> 'numImages')::integer;
  v_priority smallint := (p_order ->> 'priority')::smallint;
  v_first_tag bigint;
  v_job_ids bigint[];
begin
  perform generation.check_shared_text(p_order);
  v_first_tag := generation.reserve_tags(p_user_id, v_priority, v_jobs * v_images);
  perform generation.check_user_limits(p_user_id, v_jobs * v_images);
  insert into public.photo_generation_batches ("userId", "jobsTotal", "imagesTotal", "createdAt")
  values (p_user_id, v_jobs, v_jobs * v_images, generation.clock())
  returning id into v_batch_id;
  with inserted as (
    insert into public.photo_generation_queue (
      "batchId", "userId", "exampleImageId", "exampleImageUrl", "exampleImagePrompt", "trainingImageUrls",
      "basePrompt", "aspectRatio", "numImagesPerExample", glasses, "hairColor", "hairStyle", backgrounds, styles,
      priority, "maxAttempts", "startTag", "createdAt")
    select v_batch_id, p_user_id, e ->> 'id', e ->> 'url', e ->> 'prompt', p_order -> 'trainingPhotos',
      p_order ->> 'basePrompt', p_order ->> 'aspectRatio', v_images, p_order ->> 'glasses',
      p_order ->> 'hairColor', p_order ->> 'hairStyle', p_order -> 'backgrounds', p_order -> 'styles',
      v_priority, (p_order ->> 'maxAttempts')::integer, v_first_tag + i * v_images, generation.clock()
    from jsonb_array_elements(p_order -> 'examples') with ordinality as a (e, i)
    order by i
    returning id
  )
  select array_agg(id order by id) into v_job_ids from inserted;
  return jsonb_build_object('batchId', v_batch_id, 'jobIds', to_jsonb(v_job_ids), 'jobsEnqueued', v_jobs,
    'imagesEnqueued', v_jobs * v_images);
end
$$;

-- Accepts an order: one batch and one job per example image, in one transaction.
-- Returns {batchId, jobIds, jobsEnqueued, imagesEnqueued, created}; with a key that was seen before the
-- first answer again, `created` false. Errors: PT400 (the message names the field), PT403 (`anonymous_user`), PT409
-- (`idempotency_key_reused`, `user_being_erased`), PT413 (`order_too_large`), PT429 (`user_queue_full`, `user_daily_limit`; only
-- of signed-in users).
-- Locks: the key's row, so that a repeated key waits for its first use; the user; the user's tag row.
-- Safe to repeat with a key: the first answer is kept and given again. Without one every call is a new batch.
create or replace function public.enqueue_generation_batch(p_request jsonb, p_idempotency_key text default null)
returns jsonb
language plpgsql security definer set search_path = ''
set plan_cache_mode = force_generic_plan
as $$
declare
  v_user_id text;
  v_key text;
  v_hash bytea;
  v_first generation.idempotency_keys;
  v_answer jsonb;
begin
  perform generation.require_user();
  perform generation.renew_plans();
  perform generation.check_request(p_request);
  v_key := generation.checked_text(to_jsonb(p_idempotency_key), 'idempotency key', 200);
  v_hash := sha256(convert_to(p_request::text, 'UTF8'));
  v_user_id := generation.ordering_user(p_request);
  if v_key is not null then
    -- Not an advisory lock: those are hashes, and users choose their keys. The update changes nothing and returns the first use.
    insert into generation.idempotency_keys as k ("userId", key, "requestHash", answer, "createdAt")
    values (v_user_id, v_key, v_hash, '{}', generation.clock())
    on conflict ("userId", key) do update set answer = k.answer
    returning k.* into v_first;
    if v_first."requestHash" <> v_hash then
      perform generation.refuse('409', 'idempotency_key_reused', 'this idempotency key was used for another request',
        'Use a new key for a new order; repeat the same request to get its answer again.');
    elsif v_first.answer <> '{}' then
      return v_first.answer || '{"created": false}';
    end if;
  end if;
  perform generation.enter_user(v_user_id);
  v_answer := generation.insert_batch(generation.checked_order(p_request, v_user_id), v_user_id);
  if v_key is not null then
    update generation.idempotency_keys as k set answer = v_answer where k."userId" = v_user_id and k.key = v_key;
  end if;
  return v_answer || '{"created": true}';
end
$$;

-- Completes a row that something other than enqueue inserted (an app that still writes the table itself):
-- defaults for what was left out or null, a batch that counts it, and its place in the fair order.
create or replace function generation.adopt_inserted_job() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  new."batchId" := coalesce(new."batchId", gen_random_uuid()::text);
  new."aspectRatio" := coalesce(new."aspectRatio", '1:1');
  new."numImagesPerExample" := coalesce(new."numImagesPerExample", 4);
  new."trainingImageUrls" := coalesce(nullif(new."trainingImageUrls", 'null'), '[]');
  new.backgrounds := coalesce(nullif(new.backgrounds, 'null'), '[]');
  new.styles := coalesce(nullif(new.styles, 'null'), '[]');
  new.status := lower(coalesce(new.status, 'pending'));
  new.priority := coalesce(new.priority, 0);
  new.attempts := coalesce(new.attempts, 0);
  new."maxAttempts" := coalesce(new."maxAttempts", 5);
  new.crashes := coalesce(new.crashes, 0);
  new.suspect := coalesce(new.suspect, false);
  new.claims := coalesce(new.claims, 0);
  new."createdAt" := coalesce(new."createdAt", generation.clock());
  perform generation.check_folder(generation.user_folder(new."userId"), 'user id'),
    generation.check_folder(new."batchId", 'batch id');
  if new.status <> 'pending' then
    perform generation.refuse('400', 'not_pending', format('a new job must be pending, not %s', new.status),
      'Insert it as pending; the functions move it on.');
  end if;
  -- A row whose address is no good fails when it is worked on, and says so; a host must be allowed at once.
  perform generation.check_photo_host(generation.photo_host(r.reference), r.field)
  from (
    select new."exampleImageUrl" as reference, 'exampleImageUrl' as field
    union all
    select t.url, format('trainingImageUrls[%s]', t.i - 1)
    from jsonb_array_elements_text(case when jsonb_typeof(new."trainingImageUrls") = 'array' then new."trainingImageUrls" else '[]' end)
      with ordinality as t (url, i)
  ) as r
  where generation.photo_host(r.reference) is not null;
  perform generation.enter_user(new."userId");
  -- The tag row before the batch, so that a user's concurrent inserts into several batches queue up at it.
  new."startTag" := generation.reserve_tags(new."userId", new.priority, new."numImagesPerExample")
    + new."numImagesPerExample";
  insert into public.photo_generation_batches as b (id, "userId", "jobsTotal", "imagesTotal", "createdAt")
  values (new."batchId", new."userId", 1, new."numImagesPerExample", new."createdAt")
  on conflict (id) do update
    set "jobsTotal" = b."jobsTotal" + 1, "imagesTotal" = b."imagesTotal" + excluded."imagesTotal",
      status = 'generating', "completedAt" = null
    where b.status <> 'cancelled';
  if not found then
    perform generation.refuse('409', 'batch_cancelled', 'this batch has been cancelled', 'Insert into a new batch.');
  end if;
  return new;
end
$$;

drop trigger if exists photo_generation_queue_adopt on public.photo_generation_queue;
create trigger photo_generation_queue_adopt
before insert on public.photo_generation_queue
for each row when (new."startTag" is null)
execute function generation.adopt_inserted_job();
