-- The private bucket for generated photos, and everyone's right to read their own. Without Supabase Storage
-- (a plain PostgreSQL) there is nothing to do.
--
-- An existing bucket of that name is repaired: it becomes private and accepts every type and size of image that the models make; whatever
-- else it accepts stays. Without the right to change it, this fails and says what to set.
do $$
declare
  v_types constant text[] := array['image/png', 'image/jpeg', 'image/webp'];
  v_bytes constant bigint := 52428800;
  v_fits boolean;
begin
  if to_regclass('storage.buckets') is null then
    raise notice 'No schema storage here: bucket generated-photos was not created.';
    return;
  end if;
  insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
  values ('generated-photos', 'generated-photos', false, v_bytes, v_types)
  on conflict (id) do nothing;
  begin
    -- A missing or empty list of types, or a star, allows all types; a missing limit allows any size.
    update storage.buckets as b
    set public = false, file_size_limit = case when b.file_size_limit < v_bytes then v_bytes else b.file_size_limit end,
      allowed_mime_types = case
        when cardinality(b.allowed_mime_types) > 0 and not b.allowed_mime_types && array['*', '*/*', 'image/*']
        then b.allowed_mime_types || array(select t from unnest(v_types) as t where t <> all (b.allowed_mime_types))
        else b.allowed_mime_types end
    where b.id = 'generated-photos' and (b.public or b.file_size_limit < v_bytes
      or (cardinality(b.allowed_mime_types) > 0 and not b.allowed_mime_types && array['*', '*/*', 'image/*']
        and not b.allowed_mime_types @> v_types));
    if found then
      raise notice 'Bucket generated-photos was repaired: it is private now, and takes images of up to 50 MB as PNG, JPEG and WebP.';
    end if;
  exception
    when insufficient_privilege then
      null;  -- judged below
  end;
  select not b.public and coalesce(b.file_size_limit, v_bytes) >= v_bytes
    and (coalesce(cardinality(b.allowed_mime_types), 0) = 0 or b.allowed_mime_types && array['*', '*/*', 'image/*']
      or b.allowed_mime_types @> v_types) into v_fits
  from storage.buckets as b where b.id = 'generated-photos';
  if v_fits is not true then
    raise exception 'bucket generated-photos is public or refuses images that the models make, and may not be changed from here'
      using hint = 'In the dashboard (Storage, generated-photos, Edit bucket) make it private, with a size limit of 50 MB or none, '
        'and image/png, image/jpeg and image/webp or any type allowed; then run this again.';
  end if;
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
    raise warning 'The policy "own generated photos" is missing: run sql/functions/90_storage.sql as %, who owns storage.objects.',
      (select c.relowner::regrole from pg_catalog.pg_class as c where c.oid = 'storage.objects'::regclass);
end
$$;
