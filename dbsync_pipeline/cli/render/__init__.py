"""What commands print for people; with `--json`, `dbsync_pipeline.output` is used instead."""
