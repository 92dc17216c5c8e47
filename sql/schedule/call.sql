-- How the database calls the worker; run after install.sql, before schedule.sql and kick.sql. In the SQL editor or
-- psql; safe to run again. Needs the extension pg_net (Dashboard: Database, Extensions) and two secrets in Vault:
-- the worker's address and its WORKER_SECRET. Store them in the dashboard (Integrations, Vault) or with this statement:
--
--   with given (name, secret) as (values
--     ('generation_worker_url', 'https://generation-worker-….run.app'),
--     ('generation_worker_secret', 'the text of WORKER_SECRET'))
--   select g.name, case when s.id is null then vault.create_secret(g.secret, g.name)::text
--     else vault.update_secret(s.id, g.secret)::text end as done
--   from given as g left join vault.secrets as s on s.name = g.name
--   where g.secret <> '';
--
-- It creates what is missing and changes what is there; an empty text ('') leaves a secret as it is. Run it as often as
-- you like. A second vault.create_secret would fail, and PostgreSQL logs a failed statement with the secret in it.
-- A new value holds from the next call on.
--
-- The secrets are read when a call is made, so they stand in no table, schedule or log of ours. But pg_net keeps a
-- request's headers, and so WORKER_SECRET, in net.http_request_queue until the last answer of the request's batch has
-- come: for minutes. pg_net grants that table to every role. Where this role may, the rights are revoked below; the
-- last line that this file prints says whether they are. If not, give no stranger a login, and do not expose the
-- schema net through the API.

begin;

set local lock_timeout = '10s';

do $$
begin
  if to_regprocedure('generation.clock()') is null then
    raise exception 'The generation queue is not installed.' using hint = 'Run sql/install.sql first.';
  elsif to_regprocedure('net.http_post(text, jsonb, jsonb, jsonb, integer)') is null then
    raise exception 'The extension pg_net is not enabled.'
      using hint = 'Dashboard: Database, Extensions, pg_net. Or run: create extension pg_net;';
  elsif to_regclass('vault.decrypted_secrets') is null then
    raise exception 'The extension supabase_vault is not enabled.'
      using hint = 'Dashboard: Integrations, Vault. Or run: create extension supabase_vault cascade;';
  end if;
end
$$;

-- The calls made, so that watch.sql finds their answers among others' and a kick knows of the last. Kept for seven days.
create table if not exists generation.worker_calls (
  "requestId" bigint not null,
  cause text not null,
  path text not null,
  "calledAt" timestamptz not null default clock_timestamp()
);
alter table generation.worker_calls enable row level security;
revoke all on generation.worker_calls from public, anon, authenticated;

-- The last kick, and the last calls.
create index if not exists worker_calls_called on generation.worker_calls (cause, "calledAt" desc);

-- A secret in Vault by name, without white space around it. An error, which never quotes it, if there is none or if it
-- does not match p_pattern; p_shape says what it should be. For the functions below only.
create or replace function generation.vault_secret(p_name text, p_pattern text, p_shape text) returns text
language plpgsql stable set search_path = ''
as $$
declare
  v_secret text := (select btrim(s.decrypted_secret, E' \t\r\n') from vault.decrypted_secrets as s where s.name = p_name);
begin
  if v_secret is null then
    raise exception 'Vault has no secret named %.', p_name
      using hint = 'Dashboard: Integrations, Vault. Or run the statement at the top of sql/schedule/call.sql.';
  elsif v_secret !~ p_pattern then
    raise exception 'The secret % in Vault is not %.', p_name, p_shape
      using hint = 'Change it: Dashboard: Integrations, Vault. Or run the statement at the top of sql/schedule/call.sql.';
  end if;
  return v_secret;
end
$$;

-- The worker's address without a slash at its end. In clear text (http) only on this machine, where the secret meets nobody.
create or replace function generation.worker_url() returns text
language sql stable set search_path = ''
as $$
  select rtrim(generation.vault_secret('generation_worker_url',
    '^(https://[^/?#[:space:]]+|http://(localhost|127\.0\.0\.1|host\.docker\.internal)(:\d+)?)(/[^?#[:space:]]*)?$',
    'an address that begins with https://'), '/')
$$;

-- What the worker has as WORKER_SECRET.
create or replace function generation.worker_secret() returns text
language sql stable set search_path = ''
as $$ select generation.vault_secret('generation_worker_secret', '^[\x21-\x7e]{16,}$', 'at least 16 plain characters') $$;

-- Has pg_net POST to the worker once this transaction is committed: p_path `/` for a run, `/sweep` for a sweep; p_cause is
-- for watch.sql. pg_net waits 250 s for the answer, ten longer than the invocation timeout, so that it is not lost. Returns
-- the request's id. Errors: P0001, of Vault's secrets; those of pg_net. Safe to repeat: each call is one more run, which
-- takes only what no other has.
create or replace function generation.call_worker(p_path text default '/', p_cause text default 'by hand') returns bigint
language plpgsql set search_path = ''
as $$
declare
  v_url text := generation.worker_url();
  v_secret text := generation.worker_secret();
  v_request_id bigint;
begin
  v_request_id := net.http_post(
    url => v_url || p_path,
    body => '{}',
    headers => jsonb_build_object('Content-Type', 'application/json', 'X-Worker-Secret', v_secret),
    timeout_milliseconds => 250000);
  insert into generation.worker_calls ("requestId", cause, path) values (v_request_id, p_cause, p_path);
  return v_request_id;
end
$$;

revoke all on function
generation.vault_secret(text, text, text),
generation.worker_url(),
generation.worker_secret(),
generation.call_worker(text, text)
from public, anon, authenticated;

-- Who may see what pg_net has yet to send, and the secret with it. Sending goes on to work for every role: net.http_post
-- inserts a row and reads its id. unschedule.sql leaves this as it is.
do $$
begin
  if pg_has_role((select c.relowner from pg_catalog.pg_class as c where c.oid = 'net.http_request_queue'::regclass), 'usage') then
    revoke select, update, truncate, references, trigger on net.http_request_queue from public;
    grant select (id) on net.http_request_queue to public;
  end if;
  -- Whether both secrets can be used is said now, not at the first call.
  perform generation.worker_url(), generation.worker_secret();
end
$$;

commit;

select 'Vault' as "where", 'address and secret can be used' as "what it says"
union all
select 'pg_net', case
    when has_column_privilege('public', 'net.http_request_queue', 'headers', 'select') then
      E'every role may read the secret while a call is under\nway, and only the owner of net.http_request_queue could\n'
      || E'revoke that: give no stranger a login, and do not\nexpose the schema net through the API'
    else 'the secret of a call under way is hidden from other roles'
  end;
