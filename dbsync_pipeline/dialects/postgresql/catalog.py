"""What the mirror asks PostgreSQL's catalogs, and quoting of names.

Each query is given the quoted names of tables as text[], or their oids.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.dialects.table import Column

SQL = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
"""Compiles types and names; this parameter style does not double percent signs."""


def quote(name: str) -> str:
    """Return an identifier, quoted if it must be."""
    return SQL.identifier_preparer.quote_identifier(name)


def quote_table(table: sa.Table) -> str:
    """Return a table's name, quoted, with its schema if it has one."""
    return ".".join(quote(part) for part in (table.schema, table.name) if part)


def names(columns: Sequence[Column]) -> str:
    """Return the names of columns, quoted and separated by commas."""
    return ", ".join(quote(column.name) for column in columns)


LOCK_HOLDER = """
SELECT a.application_name, a.xact_start AT TIME ZONE 'UTC'
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

BLOCKERS = """
SELECT DISTINCT a.pid, coalesce(a.usename::text, a.backend_type), a.application_name
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.relation = ANY(%s::text[]::regclass[]) AND l.granted AND l.mode LIKE '%%Exclusive%%'
  AND a.pid <> pg_backend_pid()"""

DENIED_SCHEMAS = """
SELECT nspname FROM pg_namespace
WHERE nspname = ANY(%s::text[]) AND NOT has_schema_privilege(oid, 'USAGE')"""

NOT_DEFERRABLE = """
WITH mirrored AS (SELECT unnest(%s::text[]::regclass[]) AS oid)
SELECT format('the foreign key %%s of %%s', conname, conrelid::regclass) FROM pg_constraint
WHERE contype = 'f' AND (NOT condeferrable OR confdeltype <> 'a' OR confupdtype <> 'a')
  AND (conrelid IN (SELECT oid FROM mirrored) OR confrelid IN (SELECT oid FROM mirrored))
UNION ALL
SELECT format('the trigger %%s of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgrelid IN (SELECT oid FROM mirrored)
UNION ALL
SELECT format('the rule %%s of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_enabled IN ('O', 'A') AND ev_class IN (SELECT oid FROM mirrored)"""
"""Foreign keys, triggers and rules that SET CONSTRAINTS does not suspend."""

FIRE_FOR_REPLICAS = """
WITH mirrored AS (SELECT unnest(%s::text[]::regclass[]) AS oid)
SELECT format('the trigger %%s of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled IN ('R', 'A') AND tgrelid IN (SELECT oid FROM mirrored)
UNION ALL
SELECT format('the rule %%s of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_enabled IN ('R', 'A') AND ev_class IN (SELECT oid FROM mirrored)"""
"""Triggers and rules that session_replication_role does not suspend."""

OUTSIDE_KEYS = """
WITH mirrored AS (SELECT unnest(%s::text[]::regclass[]) AS oid)
SELECT f.conname, f.conrelid::regclass::text, f.confrelid::regclass::text,
       array_agg(quote_ident(c.attname) ORDER BY k.n), array_agg(quote_ident(p.attname) ORDER BY k.n)
FROM pg_constraint f
CROSS JOIN unnest(f.conkey, f.confkey) WITH ORDINALITY k (child, parent, n)
JOIN pg_attribute c ON c.attrelid = f.conrelid AND c.attnum = k.child
JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = k.parent
WHERE f.contype = 'f' AND f.convalidated AND f.confrelid IN (SELECT oid FROM mirrored)
  AND f.conrelid NOT IN (SELECT oid FROM mirrored)
GROUP BY f.oid, f.conname, f.conrelid, f.confrelid"""
"""Foreign keys of tables that are not mirrored to tables that are; names are quoted."""

MAY_STRIP = """
SELECT bool_and(pg_has_role(relowner, 'USAGE')) AND NOT EXISTS (
  SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY(%(oids)s)
    AND NOT conrelid = ANY(%(oids)s))
FROM pg_class WHERE oid = ANY(%(oids)s)"""
"""Whether this role owns the tables and no other table refers to them."""

SECONDARY = """
SELECT CASE contype WHEN 'f' THEN 1 ELSE 2 END,
       format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,
              pg_get_constraintdef(oid))
FROM pg_constraint WHERE conrelid = ANY(%(oids)s) AND contype IN ('f', 'u') AND conislocal
UNION ALL
SELECT 3, format('DROP INDEX %%s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index i WHERE indrelid = ANY(%(oids)s) AND NOT indisprimary AND NOT indisreplident
  AND NOT EXISTS (
    SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))
ORDER BY 1"""
"""(order, DROP, CREATE) of foreign keys, then unique constraints, then plain indexes.

The primary key stays.
"""

COLUMN_COUNTERS = """
WITH wanted AS (
  SELECT %(table)s::regclass AS table_oid,
         unnest(%(columns)s::text[]) AS column_name, unnest(%(sequences)s::text[]) AS sequence_name)
SELECT a.attname, s.oid::regclass::text, q.seqincrement,
       CASE WHEN q.seqincrement > 0 THEN least(q.seqmax, l.most)
            ELSE greatest(q.seqmin, -l.most - 1) END,
       l.most IS NOT NULL AND NOT q.seqcycle
FROM wanted w JOIN pg_attribute a ON a.attrelid = w.table_oid AND a.attname = w.column_name
CROSS JOIN LATERAL (
  SELECT d.objid AS oid FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
  UNION SELECT d.refobjid FROM pg_attrdef f JOIN pg_depend d
    ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
  WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum
  UNION SELECT to_regclass(w.sequence_name)::oid) s
JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_type t ON t.oid = a.atttypid
CROSS JOIN LATERAL (SELECT CASE coalesce(nullif(t.typbasetype, 0), t.oid)
  WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
  WHEN 'int8'::regtype THEN 9223372036854775807 WHEN 'numeric'::regtype THEN 9223372036854775807
  END AS most) l
ORDER BY 1, 2"""
"""(column, sequence, increment, end, whether the rows follow it) of sequences that fill columns.

A column has one by identity, as its owner, in its default, or by the name that the models give.
"""

FREE_SEQUENCES = """
SELECT c.oid::regclass::text, q.seqincrement,
       CASE WHEN q.seqincrement > 0 THEN q.seqmax ELSE q.seqmin END
FROM pg_class c JOIN pg_sequence q ON q.seqrelid = c.oid
WHERE c.relpersistence <> 't'
  AND c.relnamespace IN (SELECT relnamespace FROM pg_class WHERE oid = ANY(%s::text[]::regclass[]))
  AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT') END
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
      AND d.deptype IN ('a', 'i', 'e'))
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
      AND d.classid = 'pg_attrdef'::regclass)
ORDER BY 1"""
"""(sequence, increment, end) of sequences beside the tables that fill no column."""
