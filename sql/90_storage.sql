-- The private bucket for generated photos, and everyone's right to read their own. Without Supabase Storage
-- (a plain PostgreSQL) there is nothing to do.
do $$
begin
  if to_regclass('storage.buckets') is null then
    raise notice 'No schema storage here: bucket generated-photos was not created.';
    return;
  end if;
  insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
  values ('generated-photos', 'generated-photos', false, 52428800, array['image/png', 'image/jpeg', 'image/webp'])
  on conflict (id) do nothing;
end
$$;

do $$
begin
  if to_regclass('storage.objects') is null then
    return;
  end if;
  drop policy if exists "own generated photos" on storage.objects;
  create policy "own generated photos" on storage.objects for select to authenticated
  using (
    bucket_id = 'generated-photos'
    -- generation.user_folder, spelled out: nobody but its functions may use that schema.
    and split_part(name, '/', 1) = (
      select replace(replace(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', '=', '=3D'), '|', '=7C'))
  );
exception
  when insufficient_privilege then
    raise warning 'Not the owner of storage.objects: add the policy "own generated photos" in the dashboard (Storage, Policies).';
end
$$;
