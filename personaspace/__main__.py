"""`python -m personaspace`, and the `personaspace` command: the same."""

from personaspace import interrupt


def main() -> None:
    """Take signals, then import what the command needs, and run it."""
    interrupt.begin()
    from personaspace.cli.app import app

    app()


if __name__ == "__main__":
    main()
