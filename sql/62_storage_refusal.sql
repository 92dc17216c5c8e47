-- What is remembered of a Storage that did not keep an image which had been paid for. Refusals: PT400 (a parameter).

-- Tells all workers whether Storage keeps images. p_kept false: it did not keep one that was paid for; p_facts are its
-- {bytes, mimeType, problem}, and from the next claim on every run gets them as `storageRefused` and pays for nothing
-- before Storage has taken a probe as large. p_kept true: it took that probe; p_facts are what the claim gave. A
-- refusal reported meanwhile is another one and stays.
-- Returns {storageRefused}: what is remembered now, or null. Errors: PT400. Locks: the row of limits.
-- Safe to repeat: the same refusal is remembered once, and what has been cleared stays so.
create or replace function public.report_storage(p_kept boolean, p_facts jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_refused jsonb;
begin
  perform generation.require_service();
  if p_kept is null or jsonb_typeof(p_facts) is distinct from 'object' then
    perform generation.refuse('400', 'wrong_type', 'p_kept must be true or false, and p_facts an object',
      'Send {"bytes": 1500000, "mimeType": "image/png", "problem": "…"}.');
  end if;
  if p_kept then
    update generation.limits as l set "storageRefused" = null where l."storageRefused" = p_facts;
  else
    update generation.limits as l set "storageRefused" = jsonb_build_object('at', generation.clock(),
      'bytes', greatest((l."storageRefused" ->> 'bytes')::bigint, (p_facts ->> 'bytes')::bigint, 0),
      'mimeType', p_facts ->> 'mimeType', 'problem', left(p_facts ->> 'problem', 500))
    where l.id;
  end if;
  select l."storageRefused" into v_refused from generation.limits as l;
  return jsonb_build_object('storageRefused', v_refused);
end
$$;
