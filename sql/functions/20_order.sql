-- What an order must look like, and its place in the queue. Internal helpers of enqueue.
-- Refusals are PT400, or PT413 for an order that is too large; `detail` is the reason, the message names the field, `hint` is the mend.

-- The database's clock. Everything that compares times asks it, so that tests can move it by replacing
-- this function; nothing in production can.
create or replace function generation.clock() returns timestamptz
language plpgsql stable set search_path = ''
as $$
begin
  return now();
end
$$;

-- The class of an advisory lock, which is a pair of hashes: of what it is for, and of an id that callers cannot choose freely.
-- These are all that there are: `run` (its claims and its end), `user` (orders share it, an erasure does not), `runs` (a place among
-- the runs at once), `requests` (what claims count for users), `kick` (who wakes the worker).
create or replace function generation.lock_class(p_purpose text) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  if p_purpose = any (array['run', 'user', 'runs', 'requests', 'kick']) is not true then
    raise exception 'generation.lock_class: there is no advisory lock for "%"', p_purpose;
  end if;
  return hashtext('generation.' || p_purpose);
end
$$;

-- Refuses a call with HTTP status p_status (PostgREST turns SQLSTATE PTnnn into it). Never returns; declared
-- as text so that `coalesce(value, generation.refuse(…))` reads as "value, or else".
create or replace function generation.refuse(p_status text, p_reason text, p_message text, p_hint text)
returns text
language plpgsql set search_path = ''
as $$
begin
  raise exception using errcode = 'PT' || p_status, message = p_message, detail = p_reason, hint = p_hint;
end
$$;

-- Refuses fields of p_object that are not in p_allowed: a misspelt option must not be silently ignored. Names five at most.
create or replace function generation.refuse_unknown_fields(p_object jsonb, p_allowed text[], p_where text)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_unknown text;
begin
  select string_agg(left(u.k, 60), ', ' order by u.i) filter (where u.i <= 5)
    || case when count(*) > 5 then format(' and %s more', count(*) - 5) else '' end
  into v_unknown
  from (select k, row_number() over (order by k) as i from jsonb_object_keys(p_object) as k where k <> all (p_allowed)) as u;
  if v_unknown is not null then
    perform generation.refuse('400', 'unknown_field', format('%s: unknown field %s', p_where, v_unknown),
      'Allowed: ' || array_to_string(p_allowed, ', '));
  end if;
end
$$;

-- The text in p_value: null when absent, trimmed otherwise. Refuses other types, blank text, control
-- characters other than tab and newline, and more than p_max_chars characters.
create or replace function generation.checked_text(p_value jsonb, p_field text, p_max_chars integer)
returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_text text := btrim(p_value #>> '{}', E' \t\n\r');
begin
  if p_value is null or jsonb_typeof(p_value) = 'null' then
    return null;
  elsif jsonb_typeof(p_value) <> 'string' then
    perform generation.refuse('400', 'wrong_type', format('%s must be text', p_field), 'Send a JSON string.');
  elsif v_text = '' then
    perform generation.refuse('400', 'empty', format('%s is empty', p_field), 'Fill it in, or leave it out if it is optional.');
  elsif length(v_text) > p_max_chars then
    perform generation.refuse('400', 'too_long',
      format('%s has %s characters; at most %s are allowed', p_field, length(v_text), p_max_chars), 'Shorten it.');
  elsif v_text ~ '[\u0001-\u0008\u000b\u000c\u000e-\u001f\u007f]' then
    perform generation.refuse('400', 'control_characters', format('%s contains control characters', p_field), 'Remove them.');
  end if;
  return v_text;
end
$$;

-- The whole number in p_value, p_default when absent. Refuses other types and values out of range.
create or replace function generation.checked_integer(
  p_value jsonb, p_field text, p_min integer, p_max integer, p_default integer
) returns integer
language plpgsql immutable set search_path = ''
as $$
begin
  if p_value is null or jsonb_typeof(p_value) = 'null' then
    return p_default;
  elsif jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}')::numeric % 1 <> 0 then
    perform generation.refuse('400', 'wrong_type', format('%s must be a whole number', p_field),
      format('Send a number from %s to %s.', p_min, p_max));
  elsif (p_value #>> '{}')::numeric not between p_min and p_max then
    perform generation.refuse('400', 'out_of_range',
      format('%s is %s; allowed is %s to %s', p_field, left(p_value #>> '{}', 20), p_min, p_max),
      format('Send a number from %s to %s.', p_min, p_max));
  end if;
  return (p_value #>> '{}')::numeric::integer;
end
$$;

-- The array in p_value as jsonb, `[]` when absent. Refuses other types and a length out of range.
create or replace function generation.checked_array(p_value jsonb, p_field text, p_min integer, p_max integer)
returns jsonb
language plpgsql immutable set search_path = ''
as $$
declare
  v_array jsonb := coalesce(nullif(p_value, 'null'), '[]');
begin
  if jsonb_typeof(v_array) <> 'array' then
    perform generation.refuse('400', 'wrong_type', format('%s must be a list', p_field), 'Send a JSON array.');
  elsif jsonb_array_length(v_array) not between p_min and p_max then
    perform generation.refuse('400', 'out_of_range',
      format('%s has %s entries; allowed are %s to %s', p_field, jsonb_array_length(v_array), p_min, p_max),
      format('Send %s to %s entries.', p_min, p_max));
  end if;
  return v_array;
end
$$;

-- The list of texts in p_value as jsonb, `[]` when absent; at most 10 entries of 200 characters.
create or replace function generation.checked_texts(p_value jsonb, p_field text) returns jsonb
language sql immutable set search_path = ''
as $$
  select coalesce(
    jsonb_agg(
      coalesce(generation.checked_text(e, format('%s[%s]', p_field, i - 1), 200), '') order by i
    ) filter (where e <> 'null'), '[]')
  from jsonb_array_elements(generation.checked_array(p_value, p_field, 0, 10)) with ordinality as a (e, i)
$$;

-- The folder of a user in Storage. It is the user's id, but for two characters of third parties' ids
-- ("auth0|123"): Storage has no "|" in names, and what stands for it must not be an id itself.
create or replace function generation.user_folder(p_user_id text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return replace(replace(p_user_id, '=', '=3D'), '|', '=7C');
end
$$;

-- Whether a text can name a folder in Storage; anything else would lie in another one, or in none.
create or replace function generation.is_folder(p_folder text) returns boolean
language sql immutable set search_path = ''
as $$ select p_folder ~ '^[A-Za-z0-9_.@:;+,=-]{1,200}$' and p_folder !~ '^\.{1,2}$' $$;

-- Refuses an id (p_what says whose) that cannot name a folder.
create or replace function generation.check_folder(p_folder text, p_what text) returns void
language plpgsql immutable set search_path = ''
as $$
begin
  if not generation.is_folder(p_folder) then
    perform generation.refuse('400', 'bad_id', format('this %s cannot name a folder in Storage', p_what),
      'Use an id of 1 to 200 letters, digits and _ . @ : ; + , = -');
  end if;
end
$$;

-- Whether a photo's host, as it stands in a URL, can be a public one: a name of at least two labels, no address
-- in any notation, no port but 443, none of the names that lead inside (worker/photos/address.py has their sources).
create or replace function generation.is_public_host(p_host text) returns boolean
language sql immutable set search_path = ''
as $$
  select length(p_host) <= 253
    and p_host ~ '^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'
    and p_host !~ ('(^|\.)(localhost|localdomain|local|internal|intranet|private|corp|home|lan|home\.arpa'
      || '|metadata\.goog|metadata\.tencentyun\.com)$')
$$;

-- The host of an https:// address as it is compared; null for any other reference.
create or replace function generation.photo_host(p_reference text) returns text
language plpgsql immutable set search_path = ''
as $$
begin
  return regexp_replace(lower(substring(p_reference from '^https://([^/?#]*)')), ':443$', '');
end
$$;

-- The hosts that https:// photos may come from, as a JSON array.
create or replace function generation.allowed_photo_hosts() returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
  return (select coalesce(jsonb_agg(h.host order by h.host), '[]') from generation.photo_hosts as h);
end
$$;

-- Refuses the host of an https:// address that is not among generation.photo_hosts.
create or replace function generation.check_photo_host(p_host text, p_field text) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_labels constant text[] := string_to_array(p_host, '.');
begin
  if not exists (
    select from generation.photo_hosts as h
    where h.host = any (array['*', p_host] || array(
      select '*.' || array_to_string(v_labels[i:], '.') from generate_series(2, cardinality(v_labels) - 1) as i))
  ) then
    perform generation.refuse('400', 'photo_host_not_allowed', format('%s: photos may not come from host %s', p_field, p_host),
      format('The operator can allow it: python -m worker hosts add %s', p_host)
        || case when exists (select from generation.runs) then '' else '. The project''s own host is added by the first run.' end);
  end if;
end
$$;

-- Refuses a photo that the worker would not fetch anyway, so that the caller learns it at once: anything
-- but `https://` with a public-looking host name that is allowed, or `bucket/{user folder}/…` in an allowed bucket.
-- The worker checks again, and checks what the name resolves to.
create or replace function generation.check_photo(p_reference text, p_user_id text, p_field text) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_host constant text := generation.photo_host(p_reference);
  v_bucket text := split_part(p_reference, '/', 1);
  v_unseen constant text := '[\u0001-\u001f\u007f-\u00a0\u00ad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f'
    || '\u3000\ufeff\ufff9-\ufffb]';
begin
  if p_reference ~ v_unseen then
    perform generation.refuse('400', 'control_characters', format('%s contains characters that cannot be seen', p_field),
      'Remove them, or percent-encode them in a URL.');
  elsif v_host is not null then
    if p_reference ~ '[[:space:]]' or not generation.is_public_host(v_host) then
      perform generation.refuse('400', 'forbidden_address',
        format('%s: photos are not fetched from this address', p_field),
        'Use https:// with a public host name and no port, user name or IP address (international names as xn--…).');
    end if;
    perform generation.check_photo_host(v_host, p_field);
  elsif p_reference ~ '^[A-Za-z][A-Za-z0-9+.-]*:' then
    perform generation.refuse('400', 'not_https', format('%s must be an https:// address', p_field),
      'Use https://, or bucket/path for a photo in this project''s Storage.');
  elsif length(p_reference) > 1024 or p_reference !~ '^[^/]+/[^/]+/[^/]' or p_reference ~ '[\\%?#]|(^|/) *\.{0,2} *(/|$)' then
    perform generation.refuse('400', 'bad_reference', format('%s is neither an https:// address nor bucket/folder/file', p_field),
      format('Write bucket/%s/file: the folder is that of the user who orders; no "..", no "%%", no "?" or "#".',
        generation.user_folder(p_user_id)));
  elsif not exists (select from generation.photo_buckets as b where b.bucket = v_bucket) then
    perform generation.refuse('400', 'forbidden_bucket', format('%s: bucket "%s" is not one photos may come from', p_field, v_bucket),
      'Use an allowed bucket, or have the operator add it to generation.photo_buckets.');
  elsif split_part(p_reference, '/', 2) <> generation.user_folder(p_user_id) then
    perform generation.refuse('400', 'foreign_photo', format('%s lies in another user''s folder', p_field),
      format('Put the photo into %s/%s/: the folder is the id of the user who orders, with "=" as "=3D" and "|" as "=7C".',
        v_bucket, generation.user_folder(p_user_id)));
  end if;
end
$$;

-- The virtual time of a priority in start-time fair queueing (Goyal, Vin, Cheng 1996): the tag at the
-- head of what is ready, and of the jobs p_also_ready; with nothing ready, the highest tag ever given, so that nobody is held to
-- what they got while the queue was otherwise idle. Never before a job that was handed out past others: see pass_over.
create or replace function generation.virtual_time(p_priority smallint, p_also_ready bigint[] default null) returns bigint
language plpgsql stable set search_path = ''
as $$
begin
  return greatest(
    coalesce(
      least(
        (select q."startTag" from public.photo_generation_queue as q
          where q.status = 'pending' and q."retryAt" is null and q.priority = p_priority
          order by q."startTag" limit 1),
        (select min(q."startTag") from public.photo_generation_queue as q where q.id = any (p_also_ready) and q.priority = p_priority)),
      (select f."lastTag" from generation.flows as f
        where f.priority = p_priority order by f."lastTag" desc limit 1)),
    (select t.tag from generation.virtual_times as t where t.priority = p_priority),
    0);
end
$$;

-- Keeps the virtual time of the priorities of the jobs p_ids, which were handed out while others were passed over (a run has enough
-- jobs of their users): without this, what is ordered meanwhile would stand where the jobs passed over do, in the past. It advances by
-- the images handed out at most, so that a job far ahead (its user cancelled what was before it) puts nobody behind all that
-- was passed over. It never goes back, or each newcomer would stand before those who came shortly before.
-- Locks the rows of these priorities until the end of the transaction.
create or replace function generation.pass_over(p_ids bigint[]) returns void
language plpgsql set search_path = ''
as $$
begin
  insert into generation.virtual_times as t (priority, tag)
  select q.priority, least(max(q."startTag"), generation.virtual_time(q.priority) + sum(q."numImagesPerExample"))
  from public.photo_generation_queue as q where q.id = any (p_ids)
  group by q.priority order by q.priority
  on conflict (priority) do update set tag = excluded.tag where t.tag < excluded.tag;
end
$$;

-- The day that daily quotas, caps and limits count for: California's, as Google's quotas do (Gemini API, "Rate limits").
create or replace function generation.quota_day(p_now timestamptz) returns date
language sql stable set search_path = ''
as $$ select (p_now at time zone 'America/Los_Angeles')::date $$;

-- When the next such day begins, daylight saving time or not.
create or replace function generation.next_daily_reset(p_now timestamptz) returns timestamptz
language sql stable set search_path = ''
as $$ select (generation.quota_day(p_now) + 1)::timestamp at time zone 'America/Los_Angeles' $$;

-- Reserves p_images units of the user's turn and returns where they begin: the k-th job of n images
-- stands at that plus k × n. Counts them for the day, and locks the user's tag row until the end of the transaction. A
-- transaction that began before midnight may come after one of the new day, and then counts for the new one.
create or replace function generation.reserve_tags(p_user_id text, p_priority smallint, p_images integer)
returns bigint
language sql set search_path = ''
as $$
  insert into generation.flows as f ("userId", priority, "lastTag", "orderedOn", "imagesOrdered", "signedIn")
  values (p_user_id, p_priority, generation.virtual_time(p_priority) + p_images, generation.quota_day(generation.clock()), p_images, generation.caller_is_user())
  on conflict ("userId", priority) do update
    set "lastTag" = greatest(f."lastTag", generation.virtual_time(p_priority)) + p_images,
      "orderedOn" = greatest(f."orderedOn", excluded."orderedOn"),
      "imagesOrdered" = case when f."orderedOn" >= excluded."orderedOn" then f."imagesOrdered" else 0 end + p_images,
      "signedIn" = f."signedIn" or excluded."signedIn"
  returning "lastTag" - p_images
$$;

-- Where the jobs p_ids stand once they are ready again: {id, userId, priority, tag, cost}. What comes back of a user stands in a line
-- of its own, which begins at the virtual time and advances by the images that are still missing; a job never stands before
-- where it stood. So what comes back does not wait for the user's own backlog, and together with it takes two turns for each
-- of another user's at most. `cost` is what a turn costs of the user's share: the missing images, nothing for a job
-- that waited for a quota. The jobs p_also_ready count as ready. Reads only.
create or replace function generation.next_turns(p_ids bigint[], p_also_ready bigint[] default null)
returns table (id bigint, "userId" text, priority smallint, tag bigint, cost bigint)
language plpgsql stable rows 10 set search_path = ''
as $$
begin
  return query
  with missing as materialized (
    select q.id, q."userId", q.priority, q."startTag", q.status, q."numImagesPerExample"
      - (select count(*) from public.photo_generation_photos as p where p."batchId" = q."batchId" and p."jobId" = q.id)
      - (select count(*) from generation.failed_images as f where f."batchId" = q."batchId" and f."jobId" = q.id) as images
    from public.photo_generation_queue as q where q.id = any (p_ids)
  ), lines as materialized (
    select u."userId", u.priority, greatest(f."retryTag", generation.virtual_time(u.priority, p_also_ready)) as tag
    from (select distinct m."userId", m.priority from missing as m) as u
    left join generation.flows as f on f."userId" = u."userId" and f.priority = u.priority
      and f."userId" = any (array(select n."userId" from missing as n))
  )
  select m.id, m."userId", m.priority, greatest(m."startTag",
      l.tag + sum(m.images) over (partition by m."userId", m.priority order by m."startTag", m.id))::bigint,
    case when m.status = 'rate_limited' then 0 else m.images end
  from missing as m join lines as l on l."userId" = m."userId" and l.priority = m.priority;
end
$$;

-- Gives the jobs p_ids their next turns (see next_turns): {id, tag}. Turns cost as many images of the user's share: the user's
-- later orders stand that much further back, and behind what came back. The caller has locked the users' tag rows.
create or replace function generation.take_turns(p_ids bigint[]) returns table (id bigint, tag bigint)
language plpgsql rows 10 set search_path = ''
as $$
begin
  return query
  with turns as materialized (
    select * from generation.next_turns(p_ids)
  ), moved as (
    update generation.flows as f
    set "lastTag" = greatest(f."lastTag" + u.cost, u.tag), "retryTag" = greatest(f."retryTag", u.tag)
    from (select t."userId", t.priority, max(t.tag) as tag, sum(t.cost)::bigint as cost from turns as t group by 1, 2) as u
    where f."userId" = u."userId" and f.priority = u.priority and f."userId" = any (array(select n."userId" from turns as n))
  )
  select t.id, t.tag from turns as t;
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
