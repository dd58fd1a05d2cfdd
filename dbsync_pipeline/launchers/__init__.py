"""Dagster's run launchers for many machines, with what a mirror needs of them.

Each module needs the package of its launcher, and `dagster.yaml` names its class: see
docs/many-machines.md.
"""
