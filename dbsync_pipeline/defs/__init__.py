"""What Dagster runs: assets, resources, jobs, schedules, sensors and its storage."""
