"""The work itself, in plain Python: nothing here imports Dagster."""
