"""`python -m personaspace`: the same as the `personaspace` command."""

from personaspace.cli.app import app

app()
