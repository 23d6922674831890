"""Talking to S3: where, with which patience, and what its errors mean."""
