"""What PostgreSQL has beside SQLAlchemy's view of its tables, as statements that create it.

Partitions, inheritance, exclusion constraints, indexes that are more than a list of columns,
sequences, and what columns need: schemas, extensions, collations, domains, composite types,
functions. PostgreSQL writes most of the statements itself. `%(tables)s` are the oids of the tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from dbsync_pipeline.dialects import reflection
from dbsync_pipeline.dialects.postgresql import partitions
from dbsync_pipeline.dialects.postgresql.catalog import FILLS_NO_COLUMN, quote
from dbsync_pipeline.dialects.reflection import Place, Reflection

_TABLES = """
SELECT CASE WHEN n.nspname = current_schema() THEN NULL ELSE n.nspname END, c.relname, c.oid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND (n.nspname = ANY(:schemas) OR cardinality(CAST(:schemas AS text[])) = 0)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
  AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
ORDER BY 1 NULLS FIRST, 2"""

_USED = """
WITH RECURSIVE
relations AS (
  SELECT unnest(CAST(:tables AS oid[])) AS oid
  UNION SELECT p.relid FROM unnest(CAST(:tables AS oid[])) t CROSS JOIN pg_partition_tree(t) p
  UNION SELECT indexrelid FROM pg_index WHERE indrelid = ANY(CAST(:tables AS oid[]))),
parts AS (
  SELECT 'pg_class'::regclass AS classid, oid AS objid FROM relations
  UNION SELECT 'pg_attrdef'::regclass, f.oid FROM pg_attrdef f
    JOIN relations ON adrelid = relations.oid
  UNION SELECT 'pg_constraint'::regclass, f.oid FROM pg_constraint f
    JOIN relations ON conrelid = relations.oid),
used AS (
  SELECT classid, objid FROM parts
  UNION
  SELECT x.classid, x.objid FROM used u CROSS JOIN LATERAL (
    SELECT d.refclassid, d.refobjid FROM pg_depend d
    WHERE d.classid = u.classid AND d.objid = u.objid AND d.deptype IN ('n', 'a', 'i')
      AND d.refclassid IN ('pg_type'::regclass, 'pg_proc'::regclass, 'pg_collation'::regclass,
                           'pg_opclass'::regclass, 'pg_operator'::regclass)
    UNION ALL
    SELECT 'pg_type'::regclass, t.typelem FROM pg_type t
    WHERE u.classid = 'pg_type'::regclass AND t.oid = u.objid AND t.typelem <> 0
    UNION ALL
    SELECT 'pg_class'::regclass, t.typrelid FROM pg_type t
    WHERE u.classid = 'pg_type'::regclass AND t.oid = u.objid AND t.typtype = 'c'
  ) x (classid, objid))
"""
"""Everything that the tables, their defaults, constraints and indexes need."""

_SCHEMAS = (
    _USED
    + """
SELECT nspname FROM pg_namespace WHERE oid IN (
  SELECT typnamespace FROM used JOIN pg_type t ON classid = 'pg_type'::regclass AND t.oid = objid
  UNION SELECT pronamespace FROM used JOIN pg_proc p
    ON classid = 'pg_proc'::regclass AND p.oid = objid
  UNION SELECT collnamespace FROM used JOIN pg_collation c
    ON classid = 'pg_collation'::regclass AND c.oid = objid
  UNION SELECT c.relnamespace FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
    JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
    WHERE d.classid = 'pg_attrdef'::regclass AND f.adrelid = ANY(CAST(:tables AS oid[])))
  AND nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', current_schema())"""
)
"""The schemas of these, beside those of the tables."""

_EXTENSIONS = (
    _USED
    + """
SELECT DISTINCT format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I', e.extname, n.nspname)
FROM used u
JOIN pg_depend d ON d.classid = u.classid AND d.objid = u.objid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql' ORDER BY 1"""
)

_COLLATIONS = (
    _USED
    + """
SELECT DISTINCT format('CREATE COLLATION IF NOT EXISTS %s (provider = %s, %s%s)',
  c.oid::regcollation,
  CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
  CASE WHEN c.collprovider = 'c'
       THEN format('lc_collate = %L, lc_ctype = %L', c.collcollate, c.collctype)
       ELSE format('locale = %L', coalesce(to_jsonb(c) ->> 'colllocale',
                                           to_jsonb(c) ->> 'colliculocale', c.collcollate)) END,
  CASE WHEN c.collisdeterministic THEN '' ELSE ', deterministic = false' END)
FROM used u JOIN pg_collation c ON u.classid = 'pg_collation'::regclass AND c.oid = u.objid
WHERE c.collnamespace <> 'pg_catalog'::regnamespace ORDER BY 1"""
)

_TYPES = (
    _USED
    + """
, types AS (
  SELECT DISTINCT t.* FROM used u
  JOIN pg_type t ON u.classid = 'pg_type'::regclass AND t.oid = u.objid
  WHERE t.typnamespace <> 'pg_catalog'::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
      AND d.deptype = 'e'))
SELECT t.oid::regtype::text, CASE t.typtype
  WHEN 'd' THEN format('CREATE DOMAIN %s AS %s%s%s%s%s', t.oid::regtype,
    format_type(t.typbasetype, t.typtypmod),
    CASE WHEN t.typcollation <> b.typcollation THEN ' COLLATE ' || t.typcollation::regcollation
         ELSE '' END,
    coalesce(' DEFAULT ' || t.typdefault, ''), CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END,
    coalesce((SELECT string_agg(format(' CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ''
              ORDER BY conname) FROM pg_constraint WHERE contypid = t.oid AND contype = 'c'), ''))
  WHEN 'e' THEN format('CREATE TYPE %s AS ENUM (%s)', t.oid::regtype,
    (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum
     WHERE enumtypid = t.oid))
  WHEN 'c' THEN format('CREATE TYPE %s AS (%s)', t.oid::regtype,
    (SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod))
       || CASE WHEN a.attcollation <> y.typcollation
               THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END, ', ' ORDER BY attnum)
     FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
     WHERE a.attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped))
  WHEN 'r' THEN (
    SELECT format('CREATE TYPE %s AS RANGE (SUBTYPE = %s%s%s%s%s)',
      t.oid::regtype, rngsubtype::regtype,
      CASE WHEN o.opcdefault THEN '' ELSE format(', SUBTYPE_OPCLASS = %s.%I',
                                                 o.opcnamespace::regnamespace, o.opcname) END,
      CASE WHEN rngcollation <> y.typcollation THEN ', COLLATION = ' || rngcollation::regcollation
           ELSE '' END,
      CASE WHEN rngsubdiff = 0 THEN '' ELSE ', SUBTYPE_DIFF = ' || rngsubdiff END,
      coalesce(', MULTIRANGE_TYPE_NAME = '
               || ((to_jsonb(r) ->> 'rngmultitypid')::oid)::regtype, ''))  -- since version 14
    FROM pg_range r JOIN pg_opclass o ON o.oid = rngsubopc JOIN pg_type y ON y.oid = rngsubtype
    WHERE rngtypid = t.oid)
  END
FROM types t LEFT JOIN pg_type b ON b.oid = t.typbasetype
LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE t.typtype IN ('d', 'e', 'r') OR (t.typtype = 'c' AND c.relkind = 'c')
ORDER BY t.oid"""
)
"""(name, CREATE) of types, each after those that it needs."""

_FUNCTIONS = (
    _USED
    + """
SELECT pg_get_functiondef(p.oid) FROM (
  SELECT DISTINCT u.objid FROM used u WHERE u.classid = 'pg_proc'::regclass) u
JOIN pg_proc p ON p.oid = u.objid JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND p.prokind = 'f'
  AND l.lanname IN ('sql', 'plpgsql')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                  AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
ORDER BY p.oid"""
)

_CREATE_SEQUENCE = """
  format('CREATE SEQUENCE IF NOT EXISTS %s AS %s INCREMENT %s MINVALUE %s MAXVALUE %s'
    || ' START %s CACHE %s%s', c.oid::regclass, q.seqtypid::regtype, q.seqincrement, q.seqmin,
    q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END)"""

_FREE_SEQUENCES = f"""
SELECT {_CREATE_SEQUENCE} FROM pg_class c JOIN pg_sequence q ON q.seqrelid = c.oid
WHERE c.relpersistence <> 't' AND c.relnamespace IN (
  SELECT relnamespace FROM pg_class WHERE oid = ANY(CAST(:tables AS oid[])))
  AND {FILLS_NO_COLUMN}
ORDER BY 1"""
"""CREATE of sequences beside the tables that fill no column; functions and programs use them."""

_SEQUENCES = f"""
SELECT c.oid::regclass::text, a.attrelid, a.attname, d.deptype = 'a',
  {_CREATE_SEQUENCE},
  d.deptype = 'a' AND q.seqtypid = a.atttypid AND q.seqstart = 1 AND q.seqincrement = 1
    AND q.seqmin = 1 AND q.seqcache = 1 AND NOT q.seqcycle AND c.relnamespace = t.relnamespace
    AND c.relname = t.relname || '_' || a.attname || '_seq'
    AND q.seqmax = CASE q.seqtypid::regtype WHEN 'int2'::regtype THEN 32767
      WHEN 'int4'::regtype THEN 2147483647 ELSE 9223372036854775807 END
FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
JOIN pg_class t ON t.oid = a.attrelid
JOIN pg_depend n ON n.classid = 'pg_attrdef'::regclass AND n.objid = f.oid
  AND n.refclassid = 'pg_class'::regclass
JOIN pg_class c ON c.oid = n.refobjid AND c.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = c.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
  AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
WHERE a.attrelid = ANY(CAST(:tables AS oid[])) AND a.attidentity = '' ORDER BY 1, 2"""
"""(sequence, table, column, whether the column owns it, CREATE, whether it is a serial's)."""

_INHERITS = """
SELECT i.inhrelid, format('ALTER TABLE %s INHERIT %s', i.inhrelid::regclass, i.inhparent::regclass)
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'r'
WHERE i.inhrelid = ANY(CAST(:tables AS oid[])) ORDER BY i.inhrelid, i.inhseqno"""

_INVALID = """
SELECT indrelid, c.relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid
WHERE indrelid = ANY(CAST(:tables AS oid[])) AND NOT indisvalid ORDER BY 1, 2"""
"""(table, index) of indexes that CREATE INDEX CONCURRENTLY left unfinished."""

_DEFERRABLE = """
SELECT conrelid, conname, condeferred FROM pg_constraint
WHERE conrelid = ANY(CAST(:tables AS oid[])) AND contype IN ('u', 'p') AND condeferrable"""

_NOT_VALID = """
SELECT conrelid, conname, contype = 'c', format('ALTER TABLE %s ADD CONSTRAINT %I %s',
  conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE conrelid = ANY(CAST(:tables AS oid[])) AND contype IN ('c', 'f')
  AND conislocal AND NOT convalidated ORDER BY 1, 2"""
"""(table, constraint, whether it is a CHECK, ALTER) of constraints for new rows only. In CREATE
TABLE they would be valid.
"""

_COLUMNS = """
SELECT attrelid, attname, format_type(atttypid, atttypmod)
  || CASE WHEN attcollation <> t.typcollation THEN ' COLLATE ' || attcollation::regcollation
          ELSE '' END
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE attrelid = ANY(CAST(:tables AS oid[])) AND attnum > 0 AND NOT attisdropped"""

_DOMAINS = """
WITH RECURSIVE bases AS (
  SELECT attrelid, attname, 0 AS depth, atttypid AS type_oid, -1 AS modifier FROM pg_attribute
  WHERE attrelid = ANY(CAST(:tables AS oid[])) AND attnum > 0
  UNION ALL SELECT b.attrelid, b.attname, depth + 1, t.typbasetype, t.typtypmod
  FROM bases b JOIN pg_type t ON t.oid = b.type_oid AND t.typtype = 'd')
SELECT DISTINCT ON (attrelid, attname) attrelid, attname, format_type(type_oid, modifier)
FROM bases WHERE depth > 0 ORDER BY attrelid, attname, depth DESC"""
"""(table, column, type) of columns of a domain: its type, with the length or precision."""

_NOTES = """
SELECT format('the table %s: it has no columns', c.oid::regclass) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                  AND NOT attisdropped)
UNION ALL
SELECT format('the trigger %I of %s: triggers are not copied', tgname, tgrelid::regclass)
FROM pg_trigger
WHERE NOT tgisinternal AND tgparentid = 0 AND tgrelid = ANY(CAST(:tables AS oid[]))
UNION ALL
SELECT format('the rule %I of %s: rules are not copied', rulename, ev_class::regclass)
FROM pg_rewrite WHERE ev_class = ANY(CAST(:tables AS oid[]))
UNION ALL
SELECT format('the policy %I of %s: policies are not copied', polname, polrelid::regclass)
FROM pg_policy WHERE polrelid = ANY(CAST(:tables AS oid[]))
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'the view ' WHEN 'm' THEN 'the materialized view '
         ELSE 'the foreign table ' END || c.oid::regclass || ': it has no rows of its own to copy'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm', 'f')
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1"""


def places(connection: sa.Connection, schemas: Sequence[str], ledger: str) -> list[Place]:
    """Return the tables as `Schema.places` does."""
    rows = connection.execute(sa.text(_TABLES), {"schemas": list(schemas)})
    return [(schema, name) for schema, name, _ in rows if schema != ledger]


def reflect(connection: sa.Connection, tables: Sequence[Place]) -> Reflection:
    """Return the structure of these tables with everything that this module names."""
    chosen = set(tables)
    result = reflection.reflect(connection, tables)
    rows = connection.execute(sa.text(_TABLES), {"schemas": []})
    oids = {
        oid: reflection.key((schema, name))
        for schema, name, oid in rows
        if (schema, name) in chosen
    }
    query = _Query(connection, list(oids))
    _before(result, tables, query)
    _sequences(result, oids, query)
    _complete(result, oids, query)
    _constraints(result, oids, query)
    return result


class _Query:
    """Queries about the tables with these oids."""

    def __init__(self, connection: sa.Connection, oids: Sequence[int]) -> None:
        self._connection, self._parameters = connection, {"tables": list(oids)}

    def __call__(self, statement: str) -> Sequence[Any]:
        return self._connection.execute(sa.text(statement), self._parameters).all()


def _before(result: Reflection, tables: Sequence[Place], query: _Query) -> None:
    schemas = {schema for schema, _ in tables if schema} | {name for (name,) in query(_SCHEMAS)}
    for schema in sorted(schemas):
        result.before.append(
            _unless(
                f"to_regnamespace({_literal(quote(schema))}) IS NOT NULL",
                f"CREATE SCHEMA {quote(schema)}",
            )
        )
    result.before += [statement for (statement,) in query(_EXTENSIONS)]
    result.before += [statement for (statement,) in query(_COLLATIONS)]
    result.before += [
        _unless(f"to_regtype({_literal(name)}) IS NOT NULL", statement)
        for name, statement in query(_TYPES)
    ]
    result.before += [statement for (statement,) in query(_FREE_SEQUENCES)]
    functions = [statement.rstrip() for (statement,) in query(_FUNCTIONS)]
    if functions:  # which may name tables that are created afterwards
        functions.insert(0, "SET LOCAL check_function_bodies = off")
    result.before += functions


def _sequences(result: Reflection, oids: dict[int, str], query: _Query) -> None:
    """Let a key be numbered as a serial where it is one; name the sequence elsewhere."""
    for sequence, oid, column, owned, create, serial in query(_SEQUENCES):
        table = result.metadata.tables[oids[oid]]
        if serial and list(table.primary_key.columns.keys()) == [column]:
            table.c[column].server_default = None
            table.c[column].autoincrement = True
            continue
        if create not in result.before:
            result.before.append(create)
        if owned:
            name = ".".join(quote(part) for part in (table.schema, table.name) if part)
            result.then(table.key, [f"ALTER SEQUENCE {sequence} OWNED BY {name}.{quote(column)}"])


def _complete(result: Reflection, oids: dict[int, str], query: _Query) -> None:
    metadata = result.metadata
    for oid, key in query(partitions.PARTITIONED):
        metadata.tables[oids[oid]].dialect_options["postgresql"]["partition_by"] = key
    for oid, _, create, *_ in (
        *query(partitions.PARTITIONS),
        *query(partitions.CONSTRAINTS),
    ):
        result.then(oids[oid], [create])
    for oid, create in query(_INHERITS):
        result.then(oids[oid], [create])
    for oid, _, create, name in query(partitions.INDEXES):
        table = metadata.tables[oids[oid]]
        table.indexes -= {index for index in table.indexes if index.name == name}
        result.then(oids[oid], [create])
    for oid, name in query(_INVALID):
        table = metadata.tables[oids[oid]]
        table.indexes -= {index for index in table.indexes if index.name == name}
        result.notes.append(f"the index {name} of {table.key}: it is not valid")
    for oid, column, type_ in query(_COLUMNS):
        result.types[oids[oid], column] = type_
    for oid, column, base in query(_DOMAINS):
        _limit(metadata.tables[oids[oid]].c[column].type, base)
    result.notes += [note for (note,) in query(_NOTES)]


def _limit(domain: Any, base: str) -> None:
    """Give the type under a domain the length or precision that SQLAlchemy does not read."""
    if not isinstance(domain, postgresql.DOMAIN):  # SQLAlchemy did not recognise it
        return
    limits = [int(number) for number in re.findall(r"(?<=[(,])-?\d+(?=[,)])", base)]
    type_: Any = domain
    while isinstance(type_, postgresql.DOMAIN):
        type_ = type_.data_type
    names = ("length",) if isinstance(type_, sa.String) else ("precision", "scale")
    for name, limit in zip(names, limits, strict=False):
        setattr(type_, name, limit)


def _constraints(result: Reflection, oids: dict[int, str], query: _Query) -> None:
    metadata = result.metadata
    for oid, name, deferred in query(_DEFERRABLE):
        for constraint in metadata.tables[oids[oid]].constraints:
            if constraint.name == name:
                constraint.deferrable = True
                constraint.initially = "DEFERRED" if deferred else "IMMEDIATE"
    for oid, name, is_check, create in query(_NOT_VALID):
        _not_valid(result, metadata.tables[oids[oid]], name, create if is_check else None)


def _not_valid(result: Reflection, table: sa.Table, name: str, check: str | None) -> None:
    """Let a constraint be added to a table that exists; a CHECK by its statement."""
    for constraint in [each for each in table.constraints if each.name == name]:
        if check is not None:
            table.constraints.remove(constraint)
            result.then(table.key, [check])
        elif isinstance(constraint, sa.ForeignKeyConstraint):
            constraint.dialect_options["postgresql"]["not_valid"] = True
            constraint.use_alter = True


def _unless(exists: str, statement: str) -> str:
    """Return a statement that does nothing if the condition holds."""
    return f"DO $dbsync$ BEGIN IF NOT ({exists}) THEN {statement}; END IF; END $dbsync$"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
