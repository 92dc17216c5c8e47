-- What a new installation begins with: caps, models, prices, buckets. Rows that are there stay as they are.

-- A new installation has a daily cap; one that is there keeps what it has.
insert into generation.limits (id, "dollarsPerDay") values (true, 50) on conflict do nothing;

-- A row that has a source is never changed here, so what an operator has corrected stays.
insert into generation.models as m (model, "announcedEnd", "announcedSuccessor", source, "asOf")
values
('gemini-2.5-flash-image', '2026-10-02', 'gemini-3.1-flash-image',
  'Gemini API pricing. The deprecations page says 2027-03-15; the earlier date is kept, since new projects have been answered 404'
  ' since 2026-09-18, and a warning that comes too early costs nothing', '2026-11-27'),
('gemini-3.1-flash-image', '2026-10-29', 'gemini-nano-banana-2.1',
  'Gemini API changelog of 2026-10-06 (deprecated for gemini-nano-banana-2.1); the day of the shutdown from press reports', '2026-11-27'),
('gemini-3.1-flash-lite-image', null, null, 'Gemini API models: nothing announced', '2026-11-27'),
('gemini-nano-banana-2.1', null, null, 'Gemini API models: nothing announced', '2026-11-27'),
('gemini-3-pro-image', null, null, 'Gemini API models: nothing announced', '2026-11-27')
on conflict (model) do update
set "announcedEnd" = excluded."announcedEnd", "announcedSuccessor" = excluded."announcedSuccessor",
  source = excluded.source, "asOf" = excluded."asOf"
where m.source is null;

insert into generation.prices (model, dollars, since, source)
values
('gemini-2.5-flash-image', 0.039, '2025-10-02', 'Gemini API pricing: one image of 1024 px, standard'),
('gemini-3.1-flash-image', 0.067, '2026-06-25', 'Gemini API pricing: one image of 1024 px, standard'),
('gemini-3.1-flash-lite-image', 0.034, '2026-11-27', 'Gemini API pricing: one image of 1024 px, standard'),
('gemini-nano-banana-2.1', 0.0336, '2026-11-27', 'Gemini API pricing: one image of 1024 px, standard'),
('gemini-3-pro-image', 0.134, '2026-11-27', 'Gemini API pricing: one image of 1024 px, standard')
on conflict do nothing;

insert into generation.photo_buckets (bucket)
select b.bucket from (values ('training-photos'), ('generated-photos')) as b (bucket)
where not exists (select from generation.photo_buckets);
