"""SQL Server, Azure SQL and Babelfish.

| file | what it owns |
|---|---|
| `dialect` | the engine's entry: one class made of the two roles, and structure changes |
| `connection` | opening and pinning a session, running statements, the second connection |
| `source` | snapshots, digests, reading rows |
| `target` | locks, staging, bulk load, publishing, counters |
| `tsql` | expressions and statements compiled from the models |
| `catalog` | questions for the server's catalog |
| `drivers` | the two drivers: URLs, fetching, loading |
| `errors` | what a driver's error means |
| `babelfish` | how the structure of tables is read from Babelfish |
"""
