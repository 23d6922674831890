"""Looks at an image from inside, as a pod runs it, and fails if something is not as promised.

docker run --rm -i --read-only --tmpfs /tmp --network none --cap-drop ALL \
    --entrypoint python personaspace/cpu:0.1.0 - cpu < images/check.py     (make check-images)
"""

import importlib.metadata
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

BUILD_TOOLS = ("pip", "pip3", "uv", "make", "cmake", "g++", "clang", "git", "curl", "wget")
#: The modules that studies import in each image.
MODULES = {
    "cpu": "torch transformers peft datasets boto3 kubernetes statsmodels matplotlib",
    "gpu": "torch transformers peft datasets boto3 kubernetes statsmodels vllm triton",
}
#: What a build could leave behind that should not travel.
LEFTOVERS = ("/etc/pip.conf", "/root/.cache", "/root/.netrc", "/root/.pip", "/src")
LAUNCHER = "#include <Python.h>\nint main(void) { return PY_MAJOR_VERSION != 3; }\n"


def run(*command: str) -> str:
    """The output of a command; what it says and its exit code if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def installed(distribution: str) -> bool:
    """Whether a Python package of this name is in the environment."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def holds(path: str) -> bool:
    """Whether there is something in a file or folder; builders leave empty mount points."""
    place = Path(path)
    try:
        return any(place.iterdir()) if place.is_dir() else place.stat().st_size > 0
    except OSError:
        return False


def is_writable(folder: str) -> bool:
    """Whether a file can be made there, tried."""
    probe = Path(folder, f"probe-{os.getpid()}")
    try:
        probe.touch()
    except OSError:
        return False
    probe.unlink()
    return True


def unreadable(folder: str) -> list[str]:
    """What the user may not read below a folder, the first five."""
    places = (
        Path(where, name) for where, inner, files in os.walk(folder) for name in inner + files
    )
    return [str(p) for p in itertools.islice((p for p in places if not may_read(p)), 5)]


def may_read(path: Path) -> bool:
    """Whether a file can be read, or a folder listed and entered; dangling links count as read."""
    mode = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    return os.access(path, mode) or path.is_symlink()


def faults(kind: str) -> list[str]:
    """Everything that is not as promised, a line each."""
    found = [] if os.getuid() and os.getgid() else ["the user is root"]
    found += [f"{f} can be written" for f in ("/", "/opt", "/opt/code", "/etc") if is_writable(f)]
    found += [f"{tool} is there" for tool in BUILD_TOOLS if shutil.which(tool)]
    found += [f"{name} is installed" for name in ("pip", "uv") if installed(name)]
    found += [f"{path} was left behind" for path in LEFTOVERS if holds(path)]
    found += [f"{path} cannot be read" for path in unreadable("/opt")]
    if kind == "cpu" and shutil.which("gcc"):
        found.append("a compiler is there")
    if not list(Path(sysconfig.get_path("purelib")).glob("torch/__pycache__/*.pyc")):
        found.append("packages are not compiled, so each start compiles them")
    return found


def check(kind: str) -> None:
    """Prints what there is; ends the process if something is wrong."""
    if found := faults(kind):
        sys.exit("\n".join(found))
    print(run("personaspace", "--version").strip())
    run(sys.executable, "-m", "jobs", "--help")
    for module in MODULES[kind].split():
        run(sys.executable, "-c", f"import {module}")
        print(f"{module} {importlib.metadata.version(module)}")
    if kind == "gpu":
        Path("/tmp/launcher.c").write_text(LAUNCHER, encoding="utf-8")  # noqa: S108
        headers = sysconfig.get_path("include")
        run("gcc", f"-I{headers}", "-fsyntax-only", "/tmp/launcher.c")  # noqa: S108
        print("gcc compiles what Triton gives it")
    print(f"user {os.getuid()}, nothing but /tmp can be written, no installer, no leftovers")


if __name__ == "__main__":
    check(sys.argv[1])
