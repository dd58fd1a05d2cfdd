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

_MIRRORED = """
WITH named AS (SELECT unnest(%s::text[]::regclass[]) AS oid),
mirrored AS (
  SELECT oid FROM named UNION SELECT relid FROM named CROSS JOIN pg_partition_tree(named.oid))"""
"""The tables of that list, with their partitions."""

_STAYS_ON = """
WHERE contype = 'f' AND conparentid = 0
  AND (NOT condeferrable OR confdeltype <> 'a' OR confupdtype <> 'a')
  AND (conrelid IN (SELECT oid FROM mirrored) OR confrelid IN (SELECT oid FROM mirrored))"""

_FIRES = """
SELECT format('the trigger %%s of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgrelid IN (SELECT oid FROM mirrored)
UNION ALL
SELECT format('the rule %%s of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_enabled IN ('O', 'A') AND ev_class IN (SELECT oid FROM mirrored)"""

NOT_DEFERRABLE = f"""{_MIRRORED}
SELECT format('the foreign key %%s of %%s', conname, conrelid::regclass)
FROM pg_constraint {_STAYS_ON} UNION ALL {_FIRES}"""
"""Foreign keys, triggers and rules that SET CONSTRAINTS does not suspend."""

FIRING = f"{_MIRRORED} {_FIRES}"
"""The triggers and rules among these."""

STAYING_KEYS = f"""{_MIRRORED}
SELECT conrelid::regclass::text, conrelid, confrelid,
       ARRAY(SELECT quote_ident(attname) FROM unnest(conkey) WITH ORDINALITY k (num, n)
             JOIN pg_attribute ON attrelid = conrelid AND attnum = num ORDER BY n),
       ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY k (num, n)
             JOIN pg_attribute ON attrelid = confrelid AND attnum = num ORDER BY n),
       confdeltype NOT IN ('a', 'r'), confupdtype NOT IN ('a', 'r'),
       confrelid IN (SELECT oid FROM mirrored), convalidated
FROM pg_constraint {_STAYS_ON}"""
"""(table, its oid, that of the table to which it refers, columns, columns there, whether rows
follow a delete, and an update, whether the table there is mirrored or a partition of one, whether
it is valid) of the foreign keys among these; the table and its columns are quoted.
"""

DETERMINISTIC_TEXTS = """
SELECT n, attname::text FROM unnest(%s::text[]) n JOIN pg_attribute ON attrelid = n::regclass
JOIN pg_collation c ON c.oid = attcollation AND c.collisdeterministic
WHERE atttypid IN ('text'::regtype, 'varchar'::regtype) AND attnum > 0"""
"""(table, column) of texts of which equal ones are the same bytes."""

FIRE_FOR_REPLICAS = f"""{_MIRRORED}
SELECT format('the trigger %%s of %%s', tgname, tgrelid::regclass) FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled IN ('R', 'A') AND tgrelid IN (SELECT oid FROM mirrored)
UNION ALL
SELECT format('the rule %%s of %%s', rulename, ev_class::regclass) FROM pg_rewrite
WHERE ev_enabled IN ('R', 'A') AND ev_class IN (SELECT oid FROM mirrored)"""
"""Triggers and rules that session_replication_role does not suspend."""

OUTSIDE_KEYS = f"""{_MIRRORED}
SELECT f.conname, f.conrelid::regclass::text, f.confrelid::regclass::text,
       array_agg(quote_ident(c.attname) ORDER BY k.n),
       array_agg(quote_ident(p.attname) ORDER BY k.n)
FROM pg_constraint f
CROSS JOIN unnest(f.conkey, f.confkey) WITH ORDINALITY k (child, parent, n)
JOIN pg_attribute c ON c.attrelid = f.conrelid AND c.attnum = k.child
JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = k.parent
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.convalidated
  AND f.confrelid IN (SELECT oid FROM mirrored)
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
WITH plain AS (
  SELECT oid FROM pg_class
  WHERE oid = ANY(%(oids)s) AND relkind = 'r' AND NOT relispartition
    AND NOT EXISTS (SELECT FROM pg_inherits WHERE pg_class.oid IN (inhparent, inhrelid))),
plain_index AS (
  SELECT i.indexrelid, i.indrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  WHERE i.indrelid IN (SELECT oid FROM plain) AND i.indisvalid
    AND NOT i.indisprimary AND NOT i.indisreplident AND NOT i.indisclustered
    AND c.reltablespace = 0
    AND NOT EXISTS (SELECT FROM pg_description d WHERE d.objoid = i.indexrelid
                    AND d.classoid = 'pg_class'::regclass)
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = i.indexrelid
                    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('x', 'e'))
    AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indexrelid
                    AND coalesce(a.attstattarget, -1) >= 0))
SELECT CASE contype WHEN 'f' THEN 1 ELSE 2 END,
       format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,
              pg_get_constraintdef(oid))
FROM pg_constraint k
WHERE conrelid IN (SELECT oid FROM plain) AND conislocal
  AND (contype = 'f' AND confrelid IN (SELECT oid FROM plain)
       OR contype = 'u' AND conindid IN (SELECT indexrelid FROM plain_index))
  AND NOT EXISTS (SELECT FROM pg_description d WHERE d.objoid = k.oid
                  AND d.classoid = 'pg_constraint'::regclass)
  AND (contype = 'f' OR NOT EXISTS (
    SELECT FROM pg_constraint f WHERE f.confrelid = k.conrelid AND f.conindid = k.conindid
      AND f.contype = 'f' AND (f.conrelid NOT IN (SELECT oid FROM plain) OR NOT f.conislocal
        OR EXISTS (SELECT FROM pg_description d WHERE d.objoid = f.oid
                   AND d.classoid = 'pg_constraint'::regclass))))
UNION ALL
SELECT 3, format('DROP INDEX %%s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM plain_index i
WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
ORDER BY 1"""
"""(order, DROP, CREATE) of foreign keys, then unique constraints, then plain indexes.

They are those that their definition restores completely: no partition's or partitioned table's, no
inheriting table's, none with a comment, a tablespace, statistics or a dependency of its own. The
primary key stays.
"""

NOT_VALID_CHECKS = """
SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', c.oid::regclass, conname),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', c.oid::regclass, conname,
              pg_get_constraintdef(k.oid))
FROM (SELECT %s::regclass AS oid) t
JOIN pg_class c ON c.oid = t.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(t.oid))
JOIN pg_constraint k ON k.conrelid = c.oid
WHERE k.contype = 'c' AND NOT k.convalidated AND k.conislocal AND pg_has_role(c.relowner, 'USAGE')
ORDER BY 1"""
"""(DROP, ADD) of the CHECK constraints of a table and its partitions that are for new rows only."""

INHERITING = """
SELECT p.relkind = 'p', n.nspname, c.relname, n.nspname = current_schema()
FROM pg_class p LEFT JOIN (
  pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace)
  ON i.inhparent = p.oid AND p.relkind <> 'p'
WHERE p.oid = %s::regclass"""
"""(whether this table is partitioned, and schema, table, whether a name alone finds it) of tables
that inherit from it; the last three are NULL if none does.
"""

OIDS = """
SELECT n, to_regclass(n)::oid FROM unnest(%s::text[]) n WHERE to_regclass(n) IS NOT NULL"""
"""(table, oid) of the tables that exist."""

INVALID = """
SELECT relname::text FROM pg_index JOIN pg_class c ON c.oid = indexrelid
WHERE indrelid = %s::regclass AND NOT indisvalid"""

GENERATED = """
SELECT n, attname::text, pg_get_expr(adbin, adrelid),
  format('%%s GENERATED ALWAYS AS (%%s)%%s', format_type(atttypid, atttypmod),
         pg_get_expr(adbin, adrelid), CASE attgenerated WHEN 's' THEN ' STORED' ELSE '' END)
FROM unnest(%s::text[]) n JOIN pg_attribute ON attrelid = to_regclass(n) AND attgenerated <> ''
JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"""
"""(table, column, expression, definition) of generated columns."""

ANCESTORS = """
SELECT n.nspname, c.relname, n.nspname = current_schema()
FROM (SELECT %s::regclass AS oid) t CROSS JOIN pg_partition_ancestors(t.oid) a (oid)
JOIN pg_class c ON c.oid = a.oid AND c.oid <> t.oid
JOIN pg_namespace n ON n.oid = c.relnamespace"""
"""(schema, table, whether a name alone finds it) of the tables that this one is a partition of."""

STRUCTURE = """
WITH named AS (
    SELECT n, w.schema_name, w.table_name, c.oid, c.relkind, c.relpersistence,
           c.relnamespace::regnamespace AS found_in
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY w (schema_name, table_name, n)
    LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
      ON c.relname = w.table_name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND (n.nspname = w.schema_name OR w.schema_name IS NULL AND pg_table_is_visible(c.oid))
), used AS (
    SELECT DISTINCT t.oid FROM named JOIN pg_attribute a ON a.attrelid = named.oid
    JOIN pg_type u ON u.oid = a.atttypid
    JOIN pg_type t ON t.oid IN (u.oid, u.typelem, u.typbasetype)
)
SELECT md5(concat_ws(' | ', current_setting('server_version_num'), current_schema(),
    (SELECT string_agg(concat_ws(' ', n, schema_name, table_name, found_in, relkind,
                                 relpersistence), ',' ORDER BY n, found_in::text) FROM named),
    (SELECT string_agg(concat_ws(' ', n, a.attnum, a.attname, t.typnamespace::regnamespace,
                                 format_type(a.atttypid, a.atttypmod), a.attnotnull,
                                 a.attisdropped, a.attidentity, a.attgenerated,
                                 l.collnamespace::regnamespace, l.collname, a.atthasdef,
                                 CASE WHEN a.attgenerated <> ''
                                      THEN pg_get_expr(adbin, adrelid) END),
                       ',' ORDER BY n, found_in::text, a.attnum)
     FROM named JOIN pg_attribute a ON a.attrelid = named.oid AND a.attnum > 0
     LEFT JOIN pg_type t ON t.oid = a.atttypid
     LEFT JOIN pg_collation l ON l.oid = a.attcollation
     LEFT JOIN pg_attrdef ON adrelid = a.attrelid AND adnum = a.attnum),
    (SELECT string_agg(md5(concat_ws(' ', n, k.conname, k.contype, k.conkey,
                                     k.confrelid::regclass, k.confkey, k.condeferrable,
                                     k.condeferred, k.convalidated, k.confupdtype, k.confdeltype)),
                       ',' ORDER BY n, found_in::text, k.conname)
     FROM named JOIN pg_constraint k ON k.conrelid = named.oid),
    (SELECT string_agg(concat_ws(' ', n, c.relname, i.indisunique, i.indisprimary,
                                 i.indisvalid, i.indkey, i.indnkeyatts, i.indpred IS NULL,
                                 i.indexprs IS NULL),
                       ',' ORDER BY n, found_in::text, c.relname)
     FROM named JOIN pg_index i ON i.indrelid = named.oid JOIN pg_class c ON c.oid = i.indexrelid),
    (SELECT string_agg(concat_ws(' ', t.typnamespace::regnamespace, t.typname, t.typtype,
                                 format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull,
                                 pg_type_is_visible(t.oid)),
                       ',' ORDER BY t.typnamespace::regnamespace::text, t.typname)
     FROM used JOIN pg_type t USING (oid)),
    (SELECT string_agg(concat_ws(' ', t.typnamespace::regnamespace, t.typname, e.enumsortorder,
                                 e.enumlabel), ','
                       ORDER BY t.typnamespace::regnamespace::text, t.typname, e.enumsortorder)
     FROM used JOIN pg_type t USING (oid) JOIN pg_enum e ON e.enumtypid = t.oid),
    (SELECT string_agg(concat_ws(' ', n, pg_get_partkeydef(named.oid), p.relid::regclass,
                                 p.parentrelid::regclass, pg_get_expr(c.relpartbound, c.oid)), ','
                       ORDER BY n, found_in::text, p.relid::regclass::text)
     FROM named CROSS JOIN pg_partition_tree(named.oid) p JOIN pg_class c ON c.oid = p.relid
     WHERE named.relkind = 'p')))"""
"""A hash of what a comparison with the models reads, the same in every database with the same
structure. It is given the schemas, NULL for the search path, and the names of the tables, and needs
no right on the schemas.
"""

SIZES = """
WITH RECURSIVE tree AS (
    SELECT n AS name, n::regclass::oid AS oid FROM unnest(%s::text[]) n
    UNION SELECT t.name, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT name, coalesce(sum(pg_relation_size(oid)), 0), coalesce(sum(pg_table_size(oid)), 0)
FROM tree GROUP BY name"""
"""(table, bytes of its rows, bytes with values that are stored apart), children included."""

PAGES = """
WITH RECURSIVE tree AS (
    SELECT %s::regclass::oid AS oid
    UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT coalesce(max(pg_relation_size(tree.oid) / current_setting('block_size')::int), 0),
       coalesce(sum(pg_table_size(tree.oid)), 0),
       bool_and(relkind = 'p' OR (relkind = 'r' AND coalesce(amname, '') = 'heap'))
FROM tree JOIN pg_class c ON c.oid = tree.oid LEFT JOIN pg_am a ON a.oid = c.relam"""
"""(pages of the largest part, bytes in all, whether all rows have an address); children included.
"""

HAVE_BINARY_FORM = """
WITH RECURSIVE parts (oid) AS (
  SELECT atttypid FROM pg_attribute
  WHERE attrelid = %s::regclass AND attname = ANY(%s::text[]) AND attnum > 0
  UNION
  SELECT part.oid FROM parts p JOIN pg_type y ON y.oid = p.oid
  CROSS JOIN LATERAL (
    SELECT unnest(ARRAY[y.typbasetype, y.typelem]) AS oid
    UNION SELECT a.atttypid FROM pg_attribute a
          WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION SELECT r.rngsubtype FROM pg_range r WHERE y.oid IN (r.rngtypid, r.rngmultitypid)
  ) part WHERE part.oid <> 0)
SELECT bool_and(typsend <> 0 AND typreceive <> 0) FROM parts JOIN pg_type USING (oid)"""
"""Whether all types of these columns of a table, and the types that they consist of, have one."""

IS_WAITED_FOR = """
SELECT EXISTS (SELECT FROM pg_locks
               WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"""

COLUMN_TYPES = """
SELECT attname, format_type(atttypid, -1) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"""
"""(column, type): with its schema where it is needed, without length and collation."""

COLUMN_COUNTERS = """
WITH wanted AS (
  SELECT w.*, w.table_name::regclass AS table_oid
  FROM unnest(%(tables)s::text[], %(columns)s::text[], %(sequences)s::text[])
    w (table_name, column_name, sequence_name))
SELECT w.table_name, a.attname::text, s.oid::regclass::text, q.seqincrement,
       CASE WHEN q.seqincrement > 0 THEN least(q.seqmax, l.most)
            ELSE greatest(q.seqmin, -l.most - 1) END,
       l.most IS NOT NULL AND NOT q.seqcycle,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique
               AND a.attnum = ANY(i.indkey))
FROM wanted w JOIN pg_attribute a ON a.attrelid = w.table_oid AND a.attname = w.column_name
CROSS JOIN LATERAL (
  SELECT d.objid AS oid FROM pg_depend d
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
  UNION SELECT d.refobjid FROM pg_attrdef f JOIN pg_depend d
    ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
      AND d.refclassid = 'pg_class'::regclass
  WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum
  UNION SELECT to_regclass(w.sequence_name)::oid) s
JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_type t ON t.oid = a.atttypid
CROSS JOIN LATERAL (SELECT CASE coalesce(nullif(t.typbasetype, 0), t.oid)
  WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
  WHEN 'int8'::regtype THEN 9223372036854775807 WHEN 'numeric'::regtype THEN 9223372036854775807
  END AS most) l"""
"""(table, column, sequence, increment, end, whether the rows follow it, whether the column is in a
unique index) of sequences that fill columns.

A column has one by identity, as its owner, in its default, or by the name that the models give.
"""

FILLS_NO_COLUMN = """
  NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
      AND d.deptype IN ('a', 'i', 'e'))
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
      AND d.classid = 'pg_attrdef'::regclass)"""
"""Whether the sequence `c` is no column's and no default's, nor of an extension."""

FREE_SEQUENCES = f"""
SELECT c.oid::regclass::text, q.seqincrement,
       CASE WHEN q.seqincrement > 0 THEN q.seqmax ELSE q.seqmin END
FROM pg_class c JOIN pg_sequence q ON q.seqrelid = c.oid
WHERE c.relpersistence <> 't'
  AND c.relnamespace IN (SELECT relnamespace FROM pg_class WHERE oid = ANY(%s::text[]::regclass[]))
  AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT') END
  AND {FILLS_NO_COLUMN}
ORDER BY 1"""
"""(sequence, increment, end) of sequences beside the tables that fill no column."""
