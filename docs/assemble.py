"""Lay out the pages of the documentation site, for `make docs`.

    python docs/assemble.py build/docs

The site has what lies under docs/, and a few pages that stand beside what they describe. In the
repository every link is relative, so that it works wherever the files are read. Here links to these
pages are turned to where the site has them, other files that are linked to are put under `files/`,
and links to folders become plain text.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Pages outside docs/, by where the site has them. README's are the site's first page.
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "charts/experiment/README.md": "chart.md",
    "images/README.md": "images.md",
    "k8s/gpus.md": "gpus-in-a-cluster.md",
    "personaspace/study/data/README.md": "data.md",
    "personaspace/fastlora/README.md": "fastlora.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
FOLDER_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)\)")


def place(path: Path) -> str:
    """Where the site has a file of the repository."""
    inside = path.relative_to(ROOT).as_posix()
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return ELSEWHERE.get(inside, f"files/{inside}")


def page(source: Path, out: Path) -> str:
    """The text of a page, its links as the site needs them; copies files that it links to."""
    here = Path(place(source)).parent

    def turned(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if ":" in match[2] or not target.is_relative_to(ROOT):
            return match[0]
        name = place(target)
        if name.startswith("files/"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, out / name)
        return f"{match[1]}{os.path.relpath(name, here)}{match[3]}"

    def without_folders(match: re.Match[str]) -> str:
        return match[1] if (source.parent / match[2]).is_dir() else match[0]

    text = FOLDER_LINK.sub(without_folders, source.read_text(encoding="utf-8"))
    return LINK.sub(turned, text)


def main(out: Path) -> None:
    """Write the site's pages and all they show to `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(DOCS, out, ignore=shutil.ignore_patterns("*.py", "__pycache__", "*.md"))
    pages = [*DOCS.rglob("*.md"), *(ROOT / name for name in ELSEWHERE if name != "README.md")]
    for source in pages:
        if source.exists():
            target = out / place(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page(source, out), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
