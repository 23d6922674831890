"""Container entrypoints: one thin command a stage."""
