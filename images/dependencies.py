"""Prints what the images' packages are, one a line, so that an image layer can hold them alone.

python3 images/dependencies.py          (in the folder of pyproject.toml)
"""

import tomllib
from pathlib import Path

#: Extras that an image has: every stage, and the conductor.
EXTRAS = ("run", "cluster")


def dependencies(project: dict) -> list[str]:
    """Requirements of the package with these extras, and with extras that those name."""
    found = dict.fromkeys(project["dependencies"])
    todo = list(EXTRAS)
    while todo:
        for line in project["optional-dependencies"][todo.pop()]:
            name, bracket, others = line.partition("[")
            if bracket and name == project["name"]:
                todo += [other.strip() for other in others.rstrip("]").split(",")]
            else:
                found[line] = None
    return sorted(found)


if __name__ == "__main__":
    read = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(dependencies(read["project"])))
