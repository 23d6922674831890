"""`python -m personaspace`: the same as the `personaspace` command."""

from personaspace.cli import app

app()
