"""The former place of `Instant`: revisions that were written for version 0.1 import it from here."""

from dbsync_pipeline.columns import Instant

__all__ = ["Instant"]
