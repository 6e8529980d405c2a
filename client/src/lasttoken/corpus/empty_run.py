"""A run that has finished no part leaves nothing behind that stands in a corrected one's way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import pyarrow.fs as pafs

from lasttoken.corpus.manifest import MANIFEST
from lasttoken.corpus.places import Place, files_in


@contextmanager
def kept_if_it_has_parts(folder: Place) -> Iterator[None]:
    """Remove what the block has begun in a folder when it fails before its first part.

    Nobody else may be writing parts when the block ends.
    """
    had_folder = folder.filesystem.get_file_info(folder.path).type != pafs.FileType.NotFound
    had_manifest = MANIFEST in files_in(folder)
    try:
        yield
    except BaseException:
        if not had_manifest:
            with suppress(OSError, pa.ArrowException):
                _forget(folder, had_folder=had_folder)
        raise


def _forget(folder: Place, *, had_folder: bool) -> None:
    present = files_in(folder)
    if MANIFEST not in present or any(name.startswith("part-") for name in present):
        return
    folder.filesystem.delete_file(folder.inside(MANIFEST))
    if not had_folder and not folder.filesystem.get_file_info(pafs.FileSelector(folder.path)):
        folder.filesystem.delete_dir(folder.path)
