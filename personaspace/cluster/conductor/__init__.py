"""Lets a release's pods start in order."""
