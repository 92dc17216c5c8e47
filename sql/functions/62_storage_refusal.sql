-- Storage did not keep an image that had been paid for: all workers know, and pay for nothing until it keeps a probe. Refusals: PT400 (a
-- parameter).

-- How long to wait for the next probe after Storage kept a probe and then refused an image all the same, p_relapses times in a row. Such a
-- probe proves little, and the image that is paid for after it is lost. Two minutes, doubled each time, up to an hour.
create or replace function generation.relapse_wait(p_relapses integer) returns interval
language sql immutable set search_path = ''
as $$ select least(interval '1 minute' * 2 ^ least(p_relapses, 10), interval '1 hour') $$;

-- Reports whether Storage keeps images. p_kept false: it did not keep an image that was paid for; p_facts are the image's
-- {bytes, mimeType, problem, inTime}. From the next claim on, every run gets them as `storageRefused` and pays for nothing
-- until Storage has kept a probe of that size. p_kept true: it kept that probe; p_facts are what the claim gave. If another
-- refusal has been reported meanwhile, that one stays. A refusal within two hours of a probe is a relapse: `waitUntil` says when
-- the next probe is due; resume_generation makes it due now. A refusal is no relapse if `inTime` is false, because the run's time ended
-- first. Returns {storageRefused}: what is remembered now, or null. Errors: PT400. Locks: the row of limits.
-- Safe to repeat: the same refusal is remembered once, and what has been cleared stays so.
create or replace function public.report_storage(p_kept boolean, p_facts jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_refused jsonb;
  v_now constant timestamptz := generation.clock();
begin
  perform generation.require_service();
  if p_kept is null or jsonb_typeof(p_facts) is distinct from 'object' then
    perform generation.refuse('400', 'wrong_type', 'p_kept must be true or false, and p_facts an object',
      'Send {"bytes": 1500000, "mimeType": "image/png", "problem": "…"}.');
  end if;
  if p_kept then
    update generation.limits as l set "storageRefused" = null, "storageProvedAt" = v_now where l."storageRefused" = p_facts;
  else
    -- Only the first of several simultaneous refusals counts as a relapse.
    update generation.limits as l
    set "storageRelapses" = case when l."storageProvedAt" between v_now - interval '2 hours' and v_now
      and p_facts ->> 'inTime' is distinct from 'false' then l."storageRelapses" + 1 else 0 end
    where l."storageRefused" is null;
    update generation.limits as l set "storageRefused" = jsonb_build_object('at', v_now,
      'bytes', greatest((l."storageRefused" ->> 'bytes')::bigint, (p_facts ->> 'bytes')::bigint, 0),
      'mimeType', p_facts ->> 'mimeType', 'problem', left(p_facts ->> 'problem', 500),
      'waitUntil', case when l."storageRelapses" > 0 then v_now + generation.relapse_wait(l."storageRelapses") end)
    where l.id;
  end if;
  select l."storageRefused" into v_refused from generation.limits as l;
  return jsonb_build_object('storageRefused', v_refused);
end
$$;
