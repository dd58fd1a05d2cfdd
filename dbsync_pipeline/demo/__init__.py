"""The dataset of `dbsync demo`."""
