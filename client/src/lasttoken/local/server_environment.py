"""The Python environment of the server's own processes, apart from the caller's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from lasttoken.errors import InstallationFailed
from lasttoken.local.cache_folder import build_once
from lasttoken.local.installer import make_environment
from lasttoken.local.interpreter import Interpreter

REQUIREMENTS = Path(__file__).with_name("server_requirements.txt")
"""Packages of the environment with versions and hashes (model_repository/requirements.txt)."""


def install_environment(
    cache_folder: Path,
    interpreter: Interpreter,
    requirements: Path,
    announce: Callable[[str], None],
) -> Path:
    """Make the server's environment unless the cache has it.

    The folder's name holds the Python version and a hash of the interpreter's path and of the
    requirements, so a change of any of them makes a new one.

    Args:
        cache_folder: Where environments are kept.
        interpreter: Its base Python.
        requirements: Hashed requirements file.
        announce: Told in a few words what takes long, when something does.

    Returns:
        The environment's folder, with `bin/python` in it.

    Raises:
        InstallationFailed: A package could not be fetched or installed, or the file is missing.
    """
    try:
        contents = requirements.read_bytes()
    except OSError as error:
        raise InstallationFailed(
            f"cannot read the server's requirements {str(requirements)!r}: {error}"
        ) from error
    key = hashlib.sha256(contents + b"\0" + str(interpreter.executable).encode()).hexdigest()
    folder = cache_folder / f"server-py{interpreter.version}-{key[:12]}"

    def build(empty_folder: Path) -> None:
        announce(f"making the server's environment for Python {interpreter.version} (once)")
        make_environment(interpreter.executable, empty_folder, requirements)

    return build_once(folder, build)
