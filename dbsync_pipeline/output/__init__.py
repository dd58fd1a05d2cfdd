"""The JSON that the command line and the HTTP API return."""
