"""Which `tritonserver` is run, and in which environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lasttoken.local.interpreter import find_interpreter
from lasttoken.local.server_environment import install_environment
from lasttoken.local.triton_wheel import (
    backend_folder,
    install_triton,
    library_folder,
    server_binary,
)

_NOT_INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProgram:
    """A `tritonserver` with what belongs to its installation.

    Attributes:
        path: The program.
        arguments: Arguments that its installation needs.
        environment: Whole environment of the process, without LD_LIBRARY_PATH where that is set.
        library_path: LD_LIBRARY_PATH to set, or "" to leave that alone.
        backends: Names of its backends; None where Triton itself knows.
    """

    path: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    library_path: str
    backends: frozenset[str] | None = None

    def library_path_with(self, folders: Sequence[str]) -> str:
        """Return `library_path` with more folders behind, "" still to leave it alone."""
        if not folders:
            return self.library_path
        before = self.library_path or self.environment.get("LD_LIBRARY_PATH", "")
        return ":".join([*filter(None, [before]), *folders])


def find_program(
    cache_folder: Path,
    python: str | Path | None,
    requirements: Path,
    announce: Callable[[str], None],
) -> ServerProgram:
    """Take the `tritonserver` on the PATH, or else the one from the wheel, fetched when missing.

    Args:
        cache_folder: Where the wheel and the environment of the Python models are kept.
        python: Interpreter for the Python models; None chooses one. A `tritonserver` on the PATH
            brings its own.
        requirements: Hashed requirements of the Python models' environment.
        announce: Told in a few words what takes long, when something does.

    Raises:
        UnsupportedPlatform: No Triton for this system, or no interpreter that can host models.
        InstallationFailed: Triton or the environment could not be fetched.
    """
    if found := shutil.which("tritonserver"):
        return ServerProgram(
            path=found, arguments=(), environment=dict(os.environ), library_path=""
        )
    interpreter = find_interpreter(python)
    environment_folder = install_environment(cache_folder, interpreter, requirements, announce)
    triton = install_triton(cache_folder, announce)
    backends = backend_folder(triton, cache_folder, interpreter.minor_version)
    # The stub's Python is isolated: it takes its packages from the first python3 on the PATH.
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    environment["PATH"] = f"{environment_folder / 'bin'}:{environment.get('PATH', os.defpath)}"
    environment["VIRTUAL_ENV"] = str(environment_folder)
    return ServerProgram(
        path=str(server_binary(triton)),
        arguments=(f"--backend-directory={backends}",),
        environment=environment,
        library_path=f"{library_folder(triton)}:{interpreter.library_folder}",
        backends=frozenset(path.name for path in backends.iterdir() if path.is_dir()),
    )
