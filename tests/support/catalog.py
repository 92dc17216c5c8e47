"""A database's schema, part by part, to compare two databases; names that begin with `app_` are left out."""

from typing import Any

import psycopg
from psycopg.rows import DictRow

# Every part with its definition and its rights. Columns have no order, `not null` constraints no name.
PARTS = """
    with relations as (
      select c.*, n.nspname || '.' || c.relname as name
      from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
      where n.nspname in ('public', 'generation') and c.relname not like 'app\\_%'
    ), parts as (
      select 'relation' as kind, name, concat_ws(' ', relkind, relowner::regrole,
        relrowsecurity, relforcerowsecurity,
        (select array_agg(a::text order by a::text) from unnest(relacl) as a)) as text
      from relations where relkind in ('r', 'p', 'v', 'm', 'S')
      union all
      select 'column', r.name || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        case when a.attnotnull then 'not null' end, a.attidentity, a.attgenerated,
        pg_get_expr(d.adbin, d.adrelid), a.attacl)
      from relations as r
      join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef as d on d.adrelid = r.oid and d.adnum = a.attnum
      where r.relkind in ('r', 'p', 'v', 'm')
      union all
      select 'constraint', r.name || '.' || k.conname, pg_get_constraintdef(k.oid)
      from relations as r join pg_constraint as k on k.conrelid = r.oid and k.contype <> 'n'
      union all
      select 'index', r.name || '.' || x.indexrelid::regclass, pg_get_indexdef(x.indexrelid)
      from relations as r join pg_index as x on x.indrelid = r.oid
      union all
      select 'trigger', r.name || '.' || t.tgname, pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
      from relations as r join pg_trigger as t on t.tgrelid = r.oid and not t.tgisinternal
      union all
      select 'policy', r.name || '.' || p.polname, concat_ws(' ', p.polcmd, p.polpermissive,
        p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
      from relations as r join pg_policy as p on p.polrelid = r.oid
      union all
      select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
        || (select coalesce(array_agg(a::text order by a::text)::text, '') from unnest(p.proacl) as a)
      from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
      where n.nspname in ('public', 'generation') and p.proname not like 'app\\_%' and p.prokind = 'f'
      union all
      select 'sequence', r.name,
        concat_ws(' ', s.seqtypid::regtype, s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)
      from relations as r join pg_sequence as s on s.seqrelid = r.oid
      union all
      select 'schema', nspname, concat_ws(' ', obj_description(oid, 'pg_namespace'), nspacl)
      from pg_namespace where nspname = 'generation'
    )
    select kind, name, text from parts"""


def schema(connection: psycopg.Connection[DictRow]) -> dict[tuple[str, str], str]:
    """The definition of every part, by kind and name."""
    connection.execute("set search_path = ''")
    parts = connection.execute(PARTS.encode()).fetchall()
    connection.execute("reset search_path")
    return {(part["kind"], part["name"]): part["text"] for part in parts}


def rows(connection: psycopg.Connection[DictRow], table: str = "public.photo_generation_queue") -> list[Any]:
    """Every row of a table as JSON, by id."""
    found = connection.execute(f"select to_jsonb(t) as row from {table} as t order by t.id::text".encode())
    return [row["row"] for row in found.fetchall()]
