"""Dagster's runs: launching them, and their history joined with the ledgers."""
