"""Wrong arguments end a command as every other mistake does: one line, exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer import TyperException
from typer.core import TyperGroup

from personaspace.cli.guard import complain


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        context = getattr(error, "ctx", None)
        where = path if context is None else context.command_path
        said = " ".join(_plainly(error).format_message().split()).rstrip(".")
        complain(f"{said} ({where} --help says what there is)")
        raise SystemExit(error.exit_code) from None


def _plainly(error: TyperException) -> TyperException:
    """The same in the words that a study's fields have, where pydantic's were taken."""
    from pydantic import ValidationError

    if isinstance(error.__cause__, ValidationError):
        from personaspace.study.wording import wording

        found = error.__cause__.errors()[0]
        error.message = f"{wording(found)}, and {str(found['input'])!r} was given"
    return error


class Commands(TyperGroup):
    """Commands, one of which is called."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """What comes before the command's name."""
        if not args:  # help is printed
            return super().make_context(info_name, args, *more, **extra)
        with _told(info_name or ""):
            return super().make_context(info_name, args, *more, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Finds the command, reads its arguments and runs it."""
        with _told(ctx.command_path):
            return super().invoke(ctx)
