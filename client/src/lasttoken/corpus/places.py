"""Paths and URLs, through the file systems of pyarrow and fsspec."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from lasttoken.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file or folder of some file system.

    Attributes:
        url: As the user wrote it.
        filesystem: `pyarrow.fs.FileSystem`.
        path: The path in it.
    """

    url: str
    filesystem: pafs.FileSystem
    path: str

    def inside(self, name: str) -> str:
        """Path of a file in this folder."""
        return f"{self.path.rstrip('/')}/{name}"

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine, as the operating system sees it."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def would_read(self, other: Place) -> bool:
        """Whether `parquet_files` of this folder would find what is written to another one."""
        path, below = PurePosixPath(self.path.rstrip("/")), PurePosixPath(other.path.rstrip("/"))
        if _is_pattern(path.name) and below == path.parent:
            return bool(self.filesystem.equals(other.filesystem))
        if not below.is_relative_to(path) or not self.filesystem.equals(other.filesystem):
            return False
        return not _is_hidden(below.relative_to(path))


def place_of(url: str) -> Place:
    """Find the file system of a path or URL.

    pyarrow's own come first (`s3://`, `gs://`, `abfs://`, `hdfs://`, `file://`); any other is
    fsspec's. Credentials and endpoints are theirs to find; an S3 of one's own is
    `s3://bucket/key?endpoint_override=host:port&scheme=http`.

    Raises:
        InvalidInput: No file system for that scheme, or its package is not installed.
    """
    if "://" not in url:
        path = Path(url).expanduser().absolute()
        return Place(url=url, filesystem=pafs.LocalFileSystem(), path=str(path))
    try:
        filesystem, path_there = pafs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem" not in str(error):
            raise InvalidInput(f"{url!r} cannot be opened: {error}") from error
        return _fsspec_place(url)
    return Place(url=url, filesystem=filesystem, path=path_there)


def _fsspec_place(url: str) -> Place:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"{url!r} cannot be opened: {error}") from error
    handler = pafs.FSSpecHandler(filesystem)
    return Place(url=url, filesystem=pafs.PyFileSystem(handler), path=path)


def parquet_files(place: Place) -> list[str]:
    """Paths of the Parquet files at a place, in order of their names.

    Folders are searched to any depth; names that begin with `_` or `.` are left out, as is usual.
    Where nothing has the place's own name, `*`, `?` and `[...]` in it stand for files of its
    folder.

    Raises:
        InvalidInput: Nothing is there, or no Parquet file.
    """
    info = place.filesystem.get_file_info(place.path)
    if info.type == pafs.FileType.File:
        return [place.path]
    files = []
    if info.type == pafs.FileType.NotFound and _is_pattern(PurePosixPath(place.path).name):
        files = _matching_files(place)
    if info.type == pafs.FileType.Directory:
        selector = pafs.FileSelector(place.path, recursive=True)
        for entry in place.filesystem.get_file_info(selector):
            below = PurePosixPath(entry.path[len(place.path) :].lstrip("/"))
            file = entry.type == pafs.FileType.File and below.suffix == ".parquet"
            if file and not _is_hidden(below):
                files.append(entry.path)
    if not files:
        raise InvalidInput(f"no Parquet file at {place.url!r}")
    return sorted(files)


def _matching_files(place: Place) -> list[str]:
    path = PurePosixPath(place.path)
    own = PurePosixPath(path.name)
    selector = pafs.FileSelector(str(path.parent), allow_not_found=True)
    return [
        entry.path
        for entry in place.filesystem.get_file_info(selector)
        if entry.type == pafs.FileType.File
        and fnmatch.fnmatchcase(entry.base_name, own.name)
        and (_is_hidden(own) or not _is_hidden(PurePosixPath(entry.base_name)))
    ]


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _is_hidden(below: PurePosixPath) -> bool:
    return any(name.startswith(("_", ".")) for name in below.parts)


def files_in(folder: Place) -> dict[str, int]:
    """Names of the files directly in a folder and their sizes in bytes; empty where none is.

    Raises:
        InvalidInput: It is a file.
    """
    if folder.filesystem.get_file_info(folder.path).type == pafs.FileType.File:
        raise InvalidInput(f"{folder.url!r} is a file; choose a folder")
    selector = pafs.FileSelector(folder.path, allow_not_found=True)
    entries = folder.filesystem.get_file_info(selector)
    return {entry.base_name: entry.size for entry in entries if entry.type == pafs.FileType.File}


def read_bytes(folder: Place, name: str) -> bytes:
    """Read a small file."""
    with folder.filesystem.open_input_stream(folder.inside(name)) as stream:
        content: bytes = stream.read()
    return content


def write_bytes(folder: Place, name: str, content: bytes) -> None:
    """Write a small file so that it is there as a whole or not at all."""
    temporary = folder.inside(f"_tmp-{name}")
    with folder.filesystem.open_output_stream(temporary) as stream:
        stream.write(content)
    publish(folder, temporary, name)


def publish(folder: Place, temporary: str, name: str) -> None:
    """Give a complete temporary file its name: a rename, or what the file system has for it."""
    if folder.is_local:  # a name must not outlive a power cut that its content does not
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    folder.filesystem.move(temporary, folder.inside(name))
