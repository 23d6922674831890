"""Which extra of the package brings a module that is not installed."""

from __future__ import annotations

import re
from importlib import metadata

from personaspace.errors import UserError

#: Distributions whose modules have other names.
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "google": "protobuf", "yaml": "pyyaml"}
#: As in the metadata of a wheel: `torch>=2.11; extra == "run"`.
_NEED = re.compile(r"""([\w.-]+)[^;]*;.*\bextra\s*==\s*["']([\w-]+)["']""")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def extra_of(module: str) -> str | None:
    """The extra with the distribution of a module; None if no extra has it.

    Args:
        module: Its name, with or without the names of what is in it.
    """
    top = module.partition(".")[0]
    wanted = _plain(_DISTRIBUTIONS.get(top, top))
    try:
        needs = metadata.requires("personaspace") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return None
    found = [match.groups() for match in map(_NEED.match, needs) if match is not None]
    return next((extra for name, extra in found if _plain(name) == wanted), None)


def command_for(module: str) -> str | None:
    """The command that installs the extra with a module; None if no extra has it."""
    extra = extra_of(module)
    return f"pip install 'personaspace[{extra}]'" if extra else None


def missing(error: ModuleNotFoundError) -> UserError:
    """What is told where a package is not installed: how to install it."""
    name = (error.name or str(error)).partition(".")[0]
    how = command_for(name)
    told = f": {how}" if how else ""
    return UserError(f"this needs the package {name}, which is not installed here{told}")
