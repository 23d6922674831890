"""A disk that fills up in the middle of a study: one line, and with more room the same results."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from processes import LONG, ROOT
from test_faulty_s3 import COMPUTING, contents

if TYPE_CHECKING:
    from conftest import Finished

pytestmark = [
    pytest.mark.study,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not LONG, reason="make test-faults; test_store_folder.py has the store alone"
    ),
]
#: In a mount of its own: a run on a small disk, a run on the same disk with room, what it left.
SCRIPT = """
mount -t tmpfs -o size=$SIZE tmpfs "$DISK" || exit 99
$RUN; echo "exit code $?"
mount -o remount,size=1g "$DISK" || exit 99
$RUN; echo "exit code $?"
cp -r "$DISK/store" "$OUT"
"""


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_disk_that_fills_up(finished_study: Finished, tmp_path: Path, share: float) -> None:
    files = [path for path in finished_study.store.rglob("*") if path.is_file()]
    whole = sum(path.stat().st_size for path in files if "/report/" not in path.as_posix())
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*enter, "true"], check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    command = [sys.executable, "-m", "personaspace", "run", finished_study.spec, "--store"]
    done = subprocess.run(
        [*enter, SCRIPT],
        env={
            **os.environ,
            "SIZE": str(int(whole * share)),
            "DISK": str(disk),
            "OUT": str(out),
            "RUN": " ".join(map(str, [*command, disk / "store", *COMPUTING])),
        },
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    codes = re.findall(r"^exit code (\d+)$", done.stdout, re.MULTILINE)
    first = done.stdout.partition("exit code")[0]
    print(f"{share} of {whole} bytes: exit codes {codes}")
    assert done.returncode == 0 and len(codes) == 2 and codes[1] == "0", done.stdout
    assert codes[0] != "0" and "no space left on the disk" in first, first
    assert "Traceback" not in done.stdout
    assert contents(str(out)) == contents(str(finished_study.store))
