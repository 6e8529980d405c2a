"""Texts in files: one a line, or a column of JSON lines, CSV or Parquet. Read as a stream."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lasttoken.errors import InvalidInput, LasttokenError

SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
DEFAULT_COLUMN = "text"

_LONGEST_CSV_FIELD = 2**30  # Python's own limit is 128 KB
_PARQUET_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Files whose texts follow each other.

    Attributes:
        paths: Files ending in one of `SUFFIXES`.
        column: Which column of JSON lines, CSV and Parquet holds the texts.
    """

    paths: tuple[Path, ...]
    column: str = DEFAULT_COLUMN

    def __post_init__(self) -> None:
        for path in self.paths:
            if path.suffix not in SUFFIXES:
                raise InvalidInput(
                    f"{str(path)!r} ends in none of {', '.join(SUFFIXES)}; rename or convert it"
                )
            if not path.is_file():
                raise InvalidInput(f"{str(path)!r} is not a file")

    def texts(self) -> Iterator[str]:
        """The texts, in order.

        Raises:
            InvalidInput: A file is not what its name says, or a row holds no text.
        """
        for path in self.paths:
            yield from _READERS[path.suffix](path, self.column)

    def count(self) -> int:
        """How many texts there are; reads the files once, Parquet's footer only."""
        return sum(
            _parquet_file(path).metadata.num_rows
            if path.suffix == ".parquet"
            else sum(1 for _ in _READERS[path.suffix](path, self.column))
            for path in self.paths
        )


def text_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """One text a line; the line's end does not belong to it.

    Raises:
        InvalidInput: A line is not UTF-8.
    """
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"line {number} of {name} is not UTF-8: {error}") from error


def _read_txt(path: Path, _column: str) -> Iterator[str]:
    with path.open("rb") as stream:
        yield from text_lines(stream, str(path))


def _read_jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, line in enumerate(text_lines(stream, str(path)), start=1):
            if not line.strip():
                continue
            where = f"line {number} of {path}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"{where} is not JSON: {error}") from error
            if isinstance(row, dict):
                row = row.get(column) if column in row else _no_column(column, where, list(row))
            yield _text(row, where)


def _read_csv(path: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream)
        try:
            heading = next(rows, [])
            if column not in heading:
                _no_column(column, str(path), heading)
            place = heading.index(column)
            for row in rows:
                if row:
                    where = f"line {rows.line_num} of {path}"
                    yield _text(row[place] if place < len(row) else None, where)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidInput(f"line {rows.line_num} of {path}: {error}") from error


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    file = _parquet_file(path)
    if column not in file.schema_arrow.names:
        _no_column(column, str(path), file.schema_arrow.names)
    row = 0
    for batch in file.iter_batches(batch_size=_PARQUET_BATCH, columns=[column]):
        for text in batch.column(0).to_pylist():
            row += 1
            yield _text(text, f"row {row} of {path}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{where} holds {value!r:.80} and no text; leave it out, or fill it")
    return value


def _no_column(column: str, where: str, columns: Sequence[str]) -> Any:
    names = ", ".join(columns) or "none"
    raise InvalidInput(f"{where} has no column {column!r}; name one with --column: {names}")


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise parquet_missing() from error
    try:
        return parquet.ParquetFile(path)
    except ArrowException as error:
        raise InvalidInput(f"{path} is not Parquet: {error}") from error


def parquet_missing() -> LasttokenError:
    """The error of who wants Parquet and has no library for it."""
    return LasttokenError("Parquet needs pyarrow: pip install 'lasttoken[parquet]'")


_READERS = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
