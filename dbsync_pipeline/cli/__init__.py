"""The command line `dbsync`."""
