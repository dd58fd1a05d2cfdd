"""Before-images: saving, reading, exporting and merging them, and undo."""
