"""Prints the package's dependencies one a line, so that an image layer can hold them alone.

python3 images/dependencies.py          (in the folder of pyproject.toml)
"""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
print("\n".join(project["dependencies"]))
