"""The stage graph, and running it."""
