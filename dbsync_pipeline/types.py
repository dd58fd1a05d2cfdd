"""The former module of `Instant`: revisions written for version 0.1 import it from here."""

from dbsync_pipeline.columns import Instant

__all__ = ["Instant"]
