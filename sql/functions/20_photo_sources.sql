-- Where source photos may come from: buckets of this project, in the folder of the user who orders, and allowed hosts. Refusals are
-- PT400. The worker checks each reference again before it fetches the photo (worker/photos/address.py).

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

-- Adds the host of the project itself, which only its workers know, to those that photos may come from. A name that is not
-- public, such as that of a stack on one's own machine, is left out.
create or replace function generation.allow_own_photo_host(p_host text) returns void
language plpgsql set search_path = ''
as $$
begin
  if p_host is not null and not exists (select from generation.photo_hosts as h where h.host = p_host)
    and generation.is_public_host(p_host) then
    insert into generation.photo_hosts (host) values (p_host) on conflict do nothing;
  end if;
end
$$;

-- A host as an operator names it, in the form of generation.photo_hosts. PT400 `bad_host` for what is no name of a host, and for
-- names that lead inside.
create or replace function generation.checked_photo_host(p_host text) returns text
language plpgsql immutable set search_path = ''
as $$
declare
  v_host constant text := lower(btrim(coalesce(p_host, ''), E' \t\n\r'));
  v_authority constant text := regexp_replace(regexp_replace(v_host, '^[a-z][a-z0-9+.-]*://', ''), '[/?#].*$', '');
  v_alone constant text := regexp_replace(v_authority, '^.*@|:\d*$', '', 'g');
begin
  if v_host = '*' or generation.is_public_host(regexp_replace(v_host, '^\*\.', '')) then
    return v_host;
  elsif v_alone <> v_host and generation.is_public_host(regexp_replace(v_alone, '^\*\.', '')) then
    perform generation.refuse('400', 'bad_host', format('"%s" is more than a host', v_host), format('Use the host alone: %s', v_alone));
  end if;
  perform generation.refuse('400', 'bad_host', format('"%s" is no public host', left(v_host, 253)),
    'Name a host like photos.example.com (international names as xn--…), *.example.com for all below example.com, or * for any.');
  return null;
end
$$;

-- The hosts that https:// photos may come from: {hosts}. Safe to repeat: reads only.
create or replace function public.generation_photo_hosts() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
  perform generation.require_service();
  return jsonb_build_object('hosts', generation.allowed_photo_hosts());
end
$$;

-- Lets https:// photos come from a host: a name, `*.example.com` for every name below example.com, or `*` for any public host.
-- Orders and runs know it from the next one on. Returns {hosts, added}. Errors: PT400. Safe to repeat: the second time it is there.
create or replace function public.add_generation_photo_host(p_host text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_added integer;
begin
  perform generation.require_service();
  insert into generation.photo_hosts (host) values (generation.checked_photo_host(p_host)) on conflict do nothing;
  get diagnostics v_added = row_count;
  return public.generation_photo_hosts() || jsonb_build_object('added', v_added > 0);
end
$$;

-- Takes a host out again. Jobs that wait for photos of it fail when they are worked on. Returns {hosts, removed}: removed is false
-- if it was not there. Errors: PT400. Safe to repeat: the second time there is none.
create or replace function public.remove_generation_photo_host(p_host text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_removed integer;
begin
  perform generation.require_service();
  delete from generation.photo_hosts as h where h.host = lower(p_host);
  get diagnostics v_removed = row_count;
  if v_removed = 0 then
    perform generation.checked_photo_host(p_host);
  end if;
  return public.generation_photo_hosts() || jsonb_build_object('removed', v_removed > 0);
end
$$;
