"""Answers: the marker in them, and whether they are language."""
