"""The structure of a database as models: read, made portable, written as a module, and kept."""
