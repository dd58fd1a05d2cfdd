"""Questions for the server's catalog, as text. The caller fills in `{…}`."""

from __future__ import annotations

VISIBLE = """
SELECT compatibility_level, has_perms_by_name(quotename(db_name()), 'DATABASE', 'VIEW DEFINITION')
FROM sys.databases WHERE name = db_name()"""
"""The compatibility level, and whether this user sees the catalog."""

ELSEWHERE = """
SELECT t.name, s.name FROM sys.tables t INNER JOIN sys.schemas s ON s.schema_id = t.schema_id
WHERE t.name IN ({names}) AND NOT EXISTS (
  SELECT 1 FROM sys.tables o INNER JOIN sys.schemas d ON d.schema_id = o.schema_id
  WHERE o.name IN ({names}) AND d.name = schema_name())"""
"""(table, schema) of tables with these names, if none of them is in the default schema."""

FIRST_TABLE = """
SELECT TOP (1) quotename(s.name) + '.' + quotename(t.name)
FROM sys.tables t INNER JOIN sys.schemas s ON s.schema_id = t.schema_id
WHERE t.is_memory_optimized = 0 AND t.is_external = 0
  AND has_perms_by_name(quotename(s.name) + '.' + quotename(t.name), 'OBJECT', 'SELECT') = 1
ORDER BY CASE s.name WHEN 'dbsync' THEN 0 WHEN schema_name() THEN 1 ELSE 2 END, t.object_id"""
"""A table to begin a snapshot with: one that this user may read, the ledger's if there is one.

A memory-optimised table cannot be read under SNAPSHOT (41332), an external one is elsewhere.
"""

COLLATIONS = """
SELECT name, collation_name, convert(int, collationproperty(collation_name, 'CodePage'))
FROM sys.columns WHERE object_id = {0} AND collation_name IS NOT NULL"""
"""Name, collation and code page of the text columns of a table."""

ROWS = """
SELECT coalesce(sum(rows), 0) FROM sys.partitions
WHERE index_id IN (0, 1) AND object_id = {0}"""
"""The rows of a table, as the catalog counts them."""

HIDDEN = """
SELECT CASE WHEN EXISTS (
    SELECT 1 FROM sys.security_predicates f
    INNER JOIN sys.security_policies p ON p.object_id = f.object_id
    WHERE p.is_enabled = 1 AND f.predicate_type = 0 AND f.target_object_id = {0})
  OR (has_perms_by_name(quotename(db_name()), 'DATABASE', 'UNMASK') = 0 AND EXISTS (
    SELECT 1 FROM sys.masked_columns WHERE is_masked = 1 AND object_id = {0}))
THEN 1 ELSE 0 END AS hidden"""
"""1 where a policy filters the rows of a table, or a mask hides values from this user; else 0."""

_UNSUPPORTED_COLUMN = """CASE
    WHEN encryption_type IS NOT NULL THEN 'encrypted'
    WHEN generated_always_type IN (1, 2) THEN 'period'
    WHEN generated_always_type <> 0 THEN 'ledger'
    WHEN is_column_set = 1 THEN 'column set'
    WHEN xml_collection_id <> 0 THEN 'typed XML' END"""

UNSUPPORTED = f"""
SELECT name, {_UNSUPPORTED_COLUMN} AS why
FROM sys.columns WHERE object_id = {{0}} AND {_UNSUPPORTED_COLUMN} IS NOT NULL
UNION ALL SELECT '', 'in memory'
FROM sys.tables WHERE object_id = {{0}} AND is_memory_optimized = 1"""
"""(column, why) of each column of a table that cannot be carried like others; the column is empty
where it is the table."""

IDENTITY = """
SELECT name, convert(bigint, last_value) AS last, convert(bigint, increment_value) AS step
FROM sys.identity_columns WHERE object_id = {0}"""
"""(column, last number, increment) of the table's IDENTITY; the number is NULL before the first."""

_SEQUENCE = """
quotename(schema_name(s.schema_id)) + '.' + quotename(s.name) AS sequence,
convert(bigint, s.current_value) AS last, convert(bigint, s.increment) AS step,
convert(bigint, CASE WHEN convert(bigint, s.increment) > 0 THEN s.maximum_value
                     ELSE s.minimum_value END) AS [end]"""

COLUMN_SEQUENCES = f"""
SELECT c.name, {_SEQUENCE} FROM sys.columns c
INNER JOIN sys.sql_expression_dependencies d ON d.referencing_id = c.default_object_id
INNER JOIN sys.sequences s ON s.object_id = d.referenced_id
WHERE c.object_id = {{0}}"""
"""(column, sequence, last number, increment, end) of the sequences in defaults of a table.

A sequence that has given no number says that its last one is that which it starts with.
"""

SEQUENCE = f"""
SELECT {_SEQUENCE} FROM sys.sequences s WHERE s.object_id = object_id({{0}})"""
"""(sequence, last number, increment, end) of the sequence of that name."""

FREE_SEQUENCES = f"""
SELECT {_SEQUENCE} FROM sys.sequences s
WHERE has_perms_by_name(quotename(schema_name(s.schema_id)) + '.' + quotename(s.name), 'OBJECT',
                        'ALTER') = 1
  AND s.schema_id IN (SELECT schema_id FROM sys.tables WHERE object_id IN ({{tables}}))
  AND NOT EXISTS (
    SELECT 1 FROM sys.sql_expression_dependencies d WHERE d.referenced_id = s.object_id)
ORDER BY s.object_id"""
"""(sequence, last number, increment, end) of sequences beside the tables that fill no column."""

LEFTOVERS = """
SELECT name FROM sys.tables
WHERE schema_id = schema_id('dbsync') AND name LIKE 'loaded[_]%'"""
"""The staging tables of runs, live or dead."""

LOCK_TRIGGERS = """
SELECT 1 AS there FROM sys.triggers
WHERE parent_id = {0} AND name LIKE 'dbsync[_]hold[_]%'"""
"""Babelfish: a row where the table has the trigger that locks it. Long names are cut there."""

OBSTACLES = """
SELECT 1 AS there FROM sys.triggers g
WHERE g.is_disabled = 0 AND g.parent_id IN ({tables}) AND g.name NOT LIKE 'dbsync[_]hold[_]%'
UNION ALL
SELECT 1 FROM sys.foreign_keys f
WHERE f.is_disabled = 0 AND f.referenced_object_id IN ({tables})
  AND (f.update_referential_action <> 0
       OR (f.delete_referential_action <> 0 AND f.parent_object_id NOT IN ({tables})))
UNION ALL
SELECT 1 FROM sys.identity_columns i
WHERE i.object_id IN ({tables}) AND NOT EXISTS (
  SELECT 1 FROM sys.indexes x INNER JOIN sys.index_columns k
    ON k.object_id = x.object_id AND k.index_id = x.index_id
  WHERE x.is_primary_key = 1 AND x.object_id = i.object_id AND k.column_id = i.column_id)"""
"""Rows if these tables cannot be written in place under their constraints: a trigger would fire, a
key would change rows that are not in the plan, or an IDENTITY that is no key could not be set."""

CASCADING_KEYS = """
SELECT lower(f.name) FROM sys.foreign_keys f
WHERE f.is_disabled = 0 AND f.referenced_object_id IN ({tables})
  AND f.delete_referential_action <> 0"""
"""The names of the foreign keys to these tables that follow a delete, in lower case."""

ENFORCED_KEYS = """
SELECT lower(object_schema_name(f.parent_object_id)), lower(object_name(f.parent_object_id)),
       lower(f.name)
FROM sys.foreign_keys f WHERE f.is_disabled = 0 AND f.is_not_trusted = 0"""
"""(schema, table, name), in lower case, of the foreign keys that the server proved and enforces."""

SWITCHABLE = """
WITH mirrored AS (SELECT object_id FROM sys.tables WHERE object_id IN ({tables}))
SELECT 'ALTER TABLE ' + name + ' NOCHECK CONSTRAINT ' + item,
       'ALTER TABLE ' + name + ' WITH ' + CASE is_not_trusted WHEN 1 THEN 'NOCHECK' ELSE 'CHECK' END
         + ' CHECK CONSTRAINT ' + item
FROM (SELECT quotename(object_schema_name(f.parent_object_id)) + '.'
               + quotename(object_name(f.parent_object_id)) AS name,
             quotename(f.name) AS item, f.is_not_trusted
      FROM sys.foreign_keys f WHERE f.is_disabled = 0 AND (
        f.parent_object_id IN (SELECT object_id FROM mirrored)
        OR f.referenced_object_id IN (SELECT object_id FROM mirrored))) keys
UNION ALL
SELECT 'DISABLE TRIGGER ' + item + ' ON ' + name, 'ENABLE TRIGGER ' + item + ' ON ' + name
FROM (SELECT quotename(object_schema_name(g.parent_id)) + '.'
               + quotename(object_name(g.parent_id)) AS name,
             quotename(object_schema_name(g.object_id)) + '.' + quotename(g.name) AS item
      FROM sys.triggers g
      WHERE g.is_disabled = 0 AND g.parent_id IN (SELECT object_id FROM mirrored)) triggers"""
"""The statements that switch each foreign key and trigger of the tables off, and on again."""

OUTSIDE_KEYS = """
SELECT f.name, object_schema_name(f.parent_object_id), object_name(f.parent_object_id),
       object_schema_name(f.referenced_object_id), object_name(f.referenced_object_id),
       c.name, r.name
FROM sys.foreign_keys f
INNER JOIN sys.foreign_key_columns k ON k.constraint_object_id = f.object_id
INNER JOIN sys.columns c
  ON c.object_id = f.parent_object_id AND c.column_id = k.parent_column_id
INNER JOIN sys.columns r
  ON r.object_id = f.referenced_object_id AND r.column_id = k.referenced_column_id
WHERE f.referenced_object_id IN ({tables}) AND f.parent_object_id NOT IN ({tables})
ORDER BY f.object_id, k.constraint_column_id"""
"""The foreign keys of other tables to these, a row for each of their columns."""

LOCK_OWNER = """
SELECT s.context_info,
       convert(nvarchar(19), dateadd(minute, -datediff(minute, sysutcdatetime(), sysdatetime()),
         s.last_request_start_time), 120)
FROM sys.dm_tran_locks l INNER JOIN sys.dm_exec_sessions s ON s.session_id = l.request_session_id
WHERE l.resource_type = 'APPLICATION' AND l.resource_database_id = db_id()
  AND l.request_status = 'GRANT' AND l.resource_description LIKE '%[[]dbsync %'
  AND l.resource_description NOT LIKE '%[[]dbsync mark %'"""
"""The label of the sync that has this database's lock, and since when (UTC)."""

WRITERS = """
SELECT DISTINCT s.session_id, s.login_name, s.program_name
FROM sys.dm_tran_locks l INNER JOIN sys.dm_exec_sessions s ON s.session_id = l.request_session_id
WHERE l.resource_type = 'OBJECT' AND l.resource_database_id = db_id()
  AND l.resource_associated_entity_id IN ({tables}) AND l.request_status = 'GRANT'
  AND (l.request_mode LIKE '%X%' OR l.request_mode = 'Sch-M') AND s.session_id <> @@spid"""
"""The sessions that write to these tables."""
