"""Failover, promotion and failback: who the primary is, and how that changes."""
