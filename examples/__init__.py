"""Applications that use the mirror: copy what you need."""
