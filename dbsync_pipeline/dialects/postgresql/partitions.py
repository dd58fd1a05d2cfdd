"""The partitions of tables in PostgreSQL, each with the statements that create it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from dbsync_pipeline.dialects.partitions import Partition, Partitioning

PARTITIONED = """
SELECT t.oid, pg_get_partkeydef(t.oid) FROM pg_class t
WHERE t.oid = ANY(CAST(:tables AS oid[])) AND t.relkind = 'p' ORDER BY 1"""
"""(table, what it is partitioned by)."""

PARTITIONS = """
SELECT t.oid, p.relid::regclass::text,
  format('CREATE TABLE %s PARTITION OF %s %s%s', p.relid::regclass, p.parentrelid::regclass,
    pg_get_expr(c.relpartbound, c.oid), coalesce(' PARTITION BY ' || pg_get_partkeydef(c.oid), '')),
  p.parentrelid::regclass::text, pg_get_expr(c.relpartbound, c.oid),
  pg_get_partition_constraintdef(c.oid)
FROM unnest(CAST(:tables AS oid[])) t (oid) CROSS JOIN pg_partition_tree(t.oid) p
JOIN pg_class c ON c.oid = p.relid
WHERE p.parentrelid IS NOT NULL AND p.level > 0 AND c.relkind IN ('r', 'p')
ORDER BY p.level, 2"""
"""(table, partition, CREATE, parent, bound, condition), parents first."""
_BY_HASH = "satisfies_hash_partition("
"""Such a condition has the number of a table, which another database does not have."""

CONSTRAINTS = """
WITH partitions AS (
  SELECT t.oid AS root, p.relid FROM unnest(CAST(:tables AS oid[])) t (oid)
  CROSS JOIN pg_partition_tree(t.oid) p WHERE p.level > 0)
SELECT coalesce(p.root, k.conrelid), k.conrelid::regclass::text,
  format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname,
         pg_get_constraintdef(k.oid))
FROM pg_constraint k LEFT JOIN partitions p ON p.relid = k.conrelid
WHERE k.conparentid = 0 AND k.conislocal
  AND (p.relid IS NOT NULL AND k.contype IN ('c', 'f', 'p', 'u', 'x')
       OR k.conrelid = ANY(CAST(:tables AS oid[])) AND k.contype = 'x')
ORDER BY k.contype = 'f', k.conrelid::regclass::text, k.conname"""
"""(table, the table or its partition that has it, ALTER) of exclusion constraints, and of every
constraint of a partition that its table does not have.
"""

INDEXES = """
WITH relations AS (
  SELECT t.oid AS root, t.oid AS relid, false AS partition
  FROM unnest(CAST(:tables AS oid[])) t (oid)
  UNION ALL
  SELECT t.oid, p.relid, true FROM unnest(CAST(:tables AS oid[])) t (oid)
  CROSS JOIN pg_partition_tree(t.oid) p WHERE p.level > 0)
SELECT r.root, r.relid::regclass::text,
  replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON '), c.relname
FROM relations r JOIN pg_index i ON i.indrelid = r.relid JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_am m ON m.oid = c.relam
WHERE i.indisvalid AND NOT EXISTS (SELECT FROM pg_constraint k
                  WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
  AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
  AND (r.partition OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL OR m.amname <> 'btree'
    OR c.reloptions IS NOT NULL OR i.indnkeyatts <> i.indnatts
    OR position('NULLS NOT DISTINCT' IN pg_get_indexdef(i.indexrelid)) > 0
    OR EXISTS (SELECT FROM unnest(i.indoption::int[]) o WHERE o <> 0)
    OR EXISTS (SELECT FROM unnest(i.indclass::oid[]) x (oid) JOIN pg_opclass USING (oid)
               WHERE NOT opcdefault)
    OR EXISTS (SELECT FROM unnest(i.indkey::int[], i.indcollation::oid[]) x (att, coll)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = x.att
               WHERE x.coll <> a.attcollation))
ORDER BY r.root, 4"""
"""(table, the table or its partition that has it, CREATE, index) of indexes that are more than a
list of columns, or a partition's own.
"""

ATTACHED = """
WITH RECURSIVE roots AS (
  SELECT n AS name, c.oid FROM unnest(%s::text[]) n JOIN pg_class c ON c.oid = n::regclass
  WHERE c.relkind = 'p'
), tree AS (
  SELECT name, oid FROM roots
  UNION ALL SELECT t.name, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT DISTINCT r.name FROM roots r CROSS JOIN pg_partition_tree(r.oid) p
WHERE NOT EXISTS (SELECT FROM tree t WHERE t.name = r.name AND t.oid = p.relid) ORDER BY 1"""
"""Partitioned tables with a partition that the transaction's snapshot does not have.

A query of pg_inherits reads it in that snapshot; pg_partition_tree reads it as it is now, and so
does the server when it plans a query of the table.
"""


def read(connection: sa.Connection, tables: Mapping[int, str]) -> dict[str, Partitioning]:
    """Return how the partitioned ones of these tables are divided; `tables` has names by oid."""

    def rows(statement: str) -> list[Any]:
        return list(connection.execute(sa.text(statement), {"tables": list(tables)}))

    keys = {oid: by for oid, by in rows(PARTITIONED)}
    if not keys:
        return {}
    own = [(name, create) for _, name, create, *_ in (*rows(CONSTRAINTS), *rows(INDEXES))]
    divided: dict[int, list[Partition]] = {oid: [] for oid in keys}
    for oid, name, create, parent, bound, condition in rows(PARTITIONS):
        completing = [statement for owner, statement in own if owner == name]
        here_only = condition is None or _BY_HASH in condition
        divided[oid].append(
            Partition(name, parent, bound, "" if here_only else condition, (create, *completing))
        )
    return {tables[oid]: Partitioning(by, tuple(divided[oid])) for oid, by in keys.items()}
