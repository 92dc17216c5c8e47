-- The plan for rows, and its execution. In conditions and samples `j` is the row as jsonb and `s` its status in
-- our spelling; they mean the same before and after the columns have changed.
insert into pg_temp.upgrade_mend (difference, action, condition, sample, blocking) values
  ('have a status that is not known', 'say what they are: update public.photo_generation_queue set status = … where status = …',
    $$ s <> all (array['pending', 'processing', 'rate_limited', 'completed', 'failed', 'cancelled']) $$,
    $$ coalesce(j ->> 'status', '(null)') $$, true),
  ('belong to no user', 'say whose they are: update public.photo_generation_queue set "userId" = … where "userId" is null',
    $$ j ? 'userId' and coalesce(btrim(j ->> 'userId'), '') = '' $$, $$ 'id ' || (j ->> 'id') $$, true),
  ('have not ended and have a "userId" or "batchId" that cannot name a folder in Storage',
    'change it to 1 to 200 letters, digits and _ . @ : ; + , = -, or end the job',
    $$ s in ('pending', 'processing', 'rate_limited')
      and (j ->> 'userId' !~ '^[A-Za-z0-9_.@:;+,=|-]{1,200}$' and btrim(j ->> 'userId') <> ''
        or j ->> 'batchId' !~ '^[A-Za-z0-9_.@:;+,=-]{1,200}$' and btrim(j ->> 'batchId') <> '') $$,
    $$ 'id ' || (j ->> 'id') $$, true),
  ('order fewer than 1 or more than 100 images', 'mend "numImagesPerExample"',
    $$ j ->> 'numImagesPerExample' is not null and pg_temp.as_number(j ->> 'numImagesPerExample') not between 1 and 100 $$,
    $$ 'id ' || (j ->> 'id') $$, true),
  ('have a list that cannot be read as one', 'mend "trainingImageUrls", backgrounds or styles: a JSON array is wanted',
    $$ pg_temp.as_list(j -> 'trainingImageUrls') is null or pg_temp.as_list(j -> 'backgrounds') is null
      or pg_temp.as_list(j -> 'styles') is null $$, $$ 'id ' || (j ->> 'id') $$, true),
  ('were locked within the last five minutes', 'switch the old worker off and wait until nothing is processing',
    $$ s = 'processing' and j ->> 'leaseExpiresAt' is null
      and (not j ? 'lockedAt' or pg_temp.as_time(j ->> 'lockedAt') > now() - interval '5 minutes')
      and current_setting('generation.upgrade', true) is distinct from 'apply_despite_locks' $$,
    $$ 'id ' || (j ->> 'id') $$, true);

-- In this order: a row that stops being processing is then like any other that is not.
insert into pg_temp.upgrade_mend (difference, action, condition, assignment) values
  ('have their status in another spelling', 'in lower case, words joined by _', $$ j ->> 'status' <> s $$,
    $$ status = pg_temp.as_status(q.status) $$),
  ('were processing when the old worker was switched off', 'pending again',
    $$ s = 'processing' and j ->> 'leaseExpiresAt' is null $$,
    $$ status = 'pending', "lockedBy" = null, "lockedAt" = null, "retryAt" = null $$),
  ('carry a lock though they are not processing', 'lock taken off',
    $$ s <> 'processing' and coalesce(j ->> 'lockedBy', j ->> 'lockedAt', j ->> 'leaseExpiresAt') is not null $$,
    $$ "lockedBy" = null, "lockedAt" = null, "leaseExpiresAt" = null $$),
  ('were made at an unknown time', '"createdAt" is set to "updatedAt", or now', $$ j ->> 'createdAt' is null $$,
    $$ "createdAt" = coalesce(pg_temp.as_time(to_jsonb(q) ->> 'updatedAt'), now()) $$),
  ('are rate limited until no stated time', '"retryAt" is set to now', $$ s = 'rate_limited' and j ->> 'retryAt' is null $$,
    $$ "retryAt" = now() $$),
  ('failed for no stated reason', 'get a message that says so', $$ s = 'failed' and coalesce(btrim(j ->> 'errorMessage'), '') = '' $$,
    $$ "errorMessage" = 'Failed before the upgrade; the reason was not recorded.' $$),
  ('ended at an unknown time', '"completedAt" is set to "updatedAt", or "createdAt"',
    $$ s in ('completed', 'failed', 'cancelled') and j ->> 'completedAt' is null $$,
    $$ "completedAt" = coalesce(pg_temp.as_time(to_jsonb(q) ->> 'updatedAt'), q."createdAt") $$),
  ('were claimed before claims were counted', 'claims 2: their folders in Storage are swept once',
    $$ j ->> 'startedAt' is not null and coalesce(pg_temp.as_number(j ->> 'claims'), 0) = 0 $$, $$ claims = 2 $$),
  ('have not ended but have a "completedAt"', '"completedAt" is emptied',
    $$ s in ('pending', 'processing', 'rate_limited') and j ->> 'completedAt' is not null $$, $$ "completedAt" = null $$),
  ('have a null or senseless number of attempts', 'attempts 0, "maxAttempts" 5',
    $$ j ? 'attempts' and coalesce(pg_temp.as_number(j ->> 'attempts'), -1) < 0
      or j ? 'maxAttempts' and coalesce(pg_temp.as_number(j ->> 'maxAttempts'), 0) < 1 $$,
    $$ attempts = greatest(coalesce(q.attempts, 0), 0),
      "maxAttempts" = case when q."maxAttempts" >= 1 then q."maxAttempts" else 5 end $$),
  ('leave out an option that has a default', 'get the default: 4 images, 1:1, priority 0, no text',
    $$ j @> '{"numImagesPerExample": null}' or j @> '{"aspectRatio": null}' or j @> '{"priority": null}'
      or j @> '{"basePrompt": null}' or j @> '{"exampleImageUrl": null}' $$,
    $$ "numImagesPerExample" = coalesce(q."numImagesPerExample", 4), "aspectRatio" = coalesce(q."aspectRatio", '1:1'),
      priority = coalesce(q.priority, 0), "basePrompt" = coalesce(q."basePrompt", ''),
      "exampleImageUrl" = coalesce(q."exampleImageUrl", '') $$),
  ('have a list that is no JSON array', 'becomes one',
    $$ (j ? 'trainingImageUrls' and j -> 'trainingImageUrls' <> pg_temp.as_list(j -> 'trainingImageUrls'))
      or (j ? 'backgrounds' and j -> 'backgrounds' <> pg_temp.as_list(j -> 'backgrounds'))
      or (j ? 'styles' and j -> 'styles' <> pg_temp.as_list(j -> 'styles')) $$,
    $$ "trainingImageUrls" = pg_temp.as_list(q."trainingImageUrls"), backgrounds = pg_temp.as_list(q.backgrounds),
      styles = pg_temp.as_list(q.styles) $$),
  ('belong to no batch', 'a batch for each', $$ coalesce(btrim(j ->> 'batchId'), '') = '' $$,
    $$ "batchId" = gen_random_uuid()::text $$);

-- What of the rows differs, counted in one pass.
create or replace function pg_temp.plan_rows() returns void
language plpgsql as $$
declare
  v_counts text;
begin
  if not pg_temp.has_rows('public.photo_generation_queue') then
    return;
  end if;
  select string_agg(format(
    $f$(%1$s, count(*) filter (where %2$s),
      array_to_string((array_agg(distinct left(%3$s, 40)) filter (where %2$s))[1:10], ', '))$f$,
    m.seq, m.condition, coalesce(m.sample, 'null::text')), ', ' order by m.seq) into v_counts
  from pg_temp.upgrade_mend as m;
  execute format($sql$
    insert into pg_temp.upgrade_finding (tab, mend, object, difference, action, blocking)
    select 'public.photo_generation_queue', m.seq, 'rows of public.photo_generation_queue',
      concat(n.rows, case n.rows when 1 then ' row: ' else ' rows: ' end, m.difference, nullif(' (' || n.sample || ')', ' ()')),
      m.action, m.blocking
    from (
      -- `offset 0` keeps j and s from being computed anew wherever they are mentioned: 10 times faster.
      select array[%s] as counts
      from (
        select r.j, coalesce(pg_temp.as_status(r.j ->> 'status'), '(null)') as s
        from (select to_jsonb(q) as j from public.photo_generation_queue as q offset 0) as r offset 0
      ) as n
    ) as c
    cross join lateral unnest(c.counts) as n (seq integer, rows bigint, sample text)
    join pg_temp.upgrade_mend as m on m.seq = n.seq
    where n.rows > 0 order by m.seq$sql$, v_counts);
end
$$;

-- Batches that have no row, or whose counters missed what the old worker ended on a way back.
create or replace function pg_temp.batches_to_count() returns table (id text, is_new boolean)
language plpgsql stable as $$
begin
  return query
  select q."batchId", b.id is null
  from public.photo_generation_queue as q
  left join public.photo_generation_batches as b on b.id = q."batchId"
  group by q."batchId", b.id
  having b.id is null or b.status = 'generating'
    and b."jobsDone" + b."jobsFailed" <> count(*) filter (where q.status in ('completed', 'failed', 'cancelled'));
end
$$;

create or replace function pg_temp.plan_batches() returns void
language plpgsql as $$
begin
  if not pg_temp.has_rows('public.photo_generation_queue') then
    return;
  elsif not pg_temp.is_ours() then
    insert into pg_temp.upgrade_finding (tab, object, difference, action, blocking)
    select 'public.photo_generation_queue', format('batch %s', b.id), 'holds jobs of several users: ' || b.users,
      'give each user''s jobs a "batchId" of their own', true
    from (
      select j ->> 'batchId' as id, string_agg(distinct j ->> 'userId', ', ') as users
      from (select to_jsonb(q) as j from public.photo_generation_queue as q offset 0) as r
      where btrim(j ->> 'batchId') <> ''
      group by 1 having count(distinct j ->> 'userId') > 1
    ) as b
    order by b.id limit 20;
  end if;
  if to_regclass('public.photo_generation_batches') is null then
    insert into pg_temp.upgrade_finding (object, difference, action)
    values ('rows of public.photo_generation_batches', 'missing',
      'one for each "batchId", and for each job without one; its jobs are counted');
  elsif pg_temp.is_ours() and not exists (select from pg_temp.upgrade_retype) then
    insert into pg_temp.upgrade_finding (object, difference, action)
    select 'rows of public.photo_generation_batches', format('%s missing or miscounted', count(*)), 'jobs are counted'
    from pg_temp.batches_to_count() having count(*) > 0;
  end if;
end
$$;
