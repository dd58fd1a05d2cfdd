"""Revisions of the models' structure, and how they are applied to every database."""
