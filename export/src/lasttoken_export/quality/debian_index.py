"""Debian's package index as a retrieval set: short description the query, long one the document.

Real text of over sixty thousand packages, written by their maintainers and kept by Debian in one
file, which anyone can fetch. The texts bear the licences of their packages, so they are fetched and
cached, not shipped.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lasttoken_export.errors import CorruptFile, SourceUnavailable
from lasttoken_export.quality.retrieval_set import RetrievalSet, distinct_pairs

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PAIRS = 4000
"""Pairs that are kept; more than anyone measures on."""
RECORDED_SHA256 = "febf9f7275412d52d535e8a238d0a80458264d5e9c83933617df8bf9a2b6783c"
"""Digest of the set when figures were recorded. A point release of Debian may change a text."""

_INDEX = f"dists/{SUITE}/main/i18n/Translation-en.xz"
_DOCUMENT_CHARACTERS = range(150, 1001)
_QUERY_CHARACTERS = range(15, 201)


def debian_set(cache_folder: Path, *, mirror: str = MIRROR) -> RetrievalSet:
    """Return the set; the index is fetched once and kept.

    Args:
        cache_folder: Where it is kept.
        mirror: A Debian mirror.

    Raises:
        SourceUnavailable: It cannot be fetched.
        CorruptFile: What was fetched is no such index.
    """
    kept = cache_folder / "retrieval" / f"debian-{SUITE}-Translation-en.xz"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            fetched = Path(folder) / "index.xz"
            _fetch(f"{mirror}/{_INDEX}", fetched)
            read_index(fetched)
            fetched.rename(kept)
    return read_index(kept)


def read_index(path: Path) -> RetrievalSet:
    """Read ``Translation-en.xz``.

    Raises:
        CorruptFile: It is cut short, or no such index.
    """
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path} is no whole package index ({error}); remove it") from None
    candidates = [
        (package, query, paragraphs)
        for package, query, paragraphs in _descriptions(text)
        if len(query) in _QUERY_CHARACTERS and len("\n".join(paragraphs)) in _DOCUMENT_CHARACTERS
    ]
    if len(candidates) < 2:
        raise CorruptFile(f"{path} holds no descriptions of packages; remove it and try again")
    queries, documents = distinct_pairs(candidates, source_name="debian")
    source = f"Debian {SUITE}, main, English package descriptions ({MIRROR}/{_INDEX})"
    found = RetrievalSet(
        name="debian", source=source, queries=queries[:PAIRS], documents=documents[:PAIRS]
    )
    if found.sha256 == RECORDED_SHA256:
        return found
    return replace(found, source=f"{source}; not the index that recorded figures were taken on")


def _descriptions(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Package, short description and paragraphs of the long one.

    Source: Debian Policy 5.6.13: a line of the long description begins with a space, an empty one
    is a full stop.
    """
    for stanza in text.split("\n\n"):
        head, _, description = stanza.partition("\nDescription-en: ")
        query, _, long = description.partition("\n")
        lines = ["" if line.strip() == "." else line.strip() for line in long.splitlines()]
        paragraphs = " ".join(line or "\0" for line in lines).split("\0")
        paragraphs = [" ".join(paragraph.split()) for paragraph in paragraphs]
        if paragraphs := [paragraph for paragraph in paragraphs if paragraph]:
            package = head.partition("\n")[0].removeprefix("Package: ")
            yield package, " ".join(query.split()), paragraphs


def _fetch(url: str, target: Path) -> None:
    """Fetch with apt's own client where there is one: it knows the machine's proxies."""
    helper = shutil.which("apt-helper", path="/usr/lib/apt")
    reason = ""
    if helper is not None:
        command = [helper, "-o", "Acquire::Retries=2", "download-file", url, str(target)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        errors = [line for line in run.stderr.splitlines() if line.startswith("E: ")]
        reason = errors[0] if errors else f"apt-helper ended with {run.returncode}"
    else:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as file:  # noqa: S310 - http
                shutil.copyfileobj(answer, file)
        except (urllib.error.URLError, OSError) as error:
            reason = str(error)
    if not target.is_file() or not target.stat().st_size:
        raise SourceUnavailable(
            f"{url} could not be fetched: {reason}; with a network, once is enough. Without one: "
            "the set 'python' needs none, and a file of your own pairs can be given"
        )
