"""The Python interpreter that hosts the server's Python models.

Triton's Python backend runs models in a small program, the stub, that is linked against the shared
library of one Python version and finds its packages through the interpreter on its PATH. Version,
library and environment must belong together.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lasttoken.errors import UnsupportedPlatform

SUPPORTED_VERSIONS = ("3.11", "3.12")
"""Python versions that Triton 24.10 has a stub for, and numpy below 2, which the stub needs."""

_WANTED = "Python " + " or ".join(SUPPORTED_VERSIONS)

_PROBE = """
import json, sys, sysconfig
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "prefix": sys.base_prefix,
    "executable": getattr(sys, "_base_executable", None) or sys.executable,
    "libdir": sysconfig.get_config_var("LIBDIR"),
    "multiarch": sysconfig.get_config_var("MULTIARCH"),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A CPython that can host Triton's Python backend.

    Attributes:
        executable: The base interpreter, outside any virtual environment.
        version: Full version, such as `"3.11.7"`.
        library_folder: Folder of its own `libpython3.X.so.1.0`.
    """

    executable: Path
    version: str
    library_folder: Path

    @property
    def minor_version(self) -> str:
        """Version without the patch level, such as `"3.11"`."""
        return ".".join(self.version.split(".")[:2])


def find_interpreter(python: str | Path | None = None) -> Interpreter:
    """Find an interpreter for the server's Python models.

    Args:
        python: Path or command name of an interpreter. None takes the first that will do: the
            running one, then the `python3.X` on the PATH.

    Raises:
        UnsupportedPlatform: There is none, its version is not supported, or it has no shared
            library.
    """
    if python is None:
        return _first_that_will_do()
    command = shutil.which(str(python))
    if command is None:
        raise UnsupportedPlatform(f"there is no Python interpreter {str(python)!r}")
    return _inspect(command)


def _first_that_will_do() -> Interpreter:
    refusals = []
    for name in (sys.executable, *(f"python{version}" for version in SUPPORTED_VERSIONS)):
        command = shutil.which(name)
        if command is None:
            continue
        try:
            return _inspect(command)
        except UnsupportedPlatform as refusal:
            refusals.append(str(refusal))
    raise UnsupportedPlatform(
        "; ".join(refusals) + f". The client may stay on this Python: install {_WANTED} for the "
        "server and name it with python=... (`--python` on the command line)"
    )


def _inspect(command: str) -> Interpreter:
    try:
        answer = subprocess.run(
            [command, "-I", "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60
        )
        facts = json.loads(answer.stdout)
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip() or f"exit code {error.returncode}"
        raise UnsupportedPlatform(f"{command!r} is not a working Python: {words}") from error
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UnsupportedPlatform(f"{command!r} is not a working Python: {error}") from error
    version = str(facts["version"])
    minor = ".".join(version.split(".")[:2])
    if minor not in SUPPORTED_VERSIONS:
        raise UnsupportedPlatform(
            f"{command!r} is Python {version}; the local server needs {_WANTED}"
        )
    folders = [Path(facts["prefix"]) / "lib"]
    if facts["libdir"]:
        folders.insert(0, Path(facts["libdir"]))
        if facts["multiarch"]:
            folders.append(Path(facts["libdir"]) / facts["multiarch"])
    library = f"libpython{minor}.so.1.0"
    for folder in folders:
        if (folder / library).exists():
            return Interpreter(
                executable=Path(facts["executable"]), version=version, library_folder=folder
            )
    raise UnsupportedPlatform(
        f"{command!r} has no shared library {library!r} (looked in {[str(f) for f in folders]}), "
        f"so Triton cannot host it. On Debian and Ubuntu: `apt-get install libpython{minor}`; with "
        "pyenv: build with PYTHON_CONFIGURE_OPTS=--enable-shared; pythons that uv installs have it"
    )
