"""Finished rows into an output file: NumPy, JSON lines or Parquet, by the file's suffix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.arrow_arrays import bool_array, number_array, string_array
from lasttoken.errors import InvalidInput
from lasttoken.files.text_source import parquet_missing

OUTPUT_SUFFIXES = (".npy", ".jsonl", ".parquet")

Records = Iterable[npt.NDArray[Any]]
"""Chunks of records with the fields embedding, token_count and truncated."""


def check_output(path: Path) -> None:
    """Check that an output file can be written, before anything is computed.

    Raises:
        InvalidInput: Another suffix, or no folder there.
        LasttokenError: Parquet without pyarrow.
    """
    if path.suffix not in OUTPUT_SUFFIXES:
        raise InvalidInput(
            f"--output is {str(path)!r}; it takes a name ending in {', '.join(OUTPUT_SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise InvalidInput(f"--output is {str(path)!r}; there is no folder {str(path.parent)!r}")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ModuleNotFoundError as error:
            raise parquet_missing() from error


def write_vectors(
    path: Path,
    chunks: Records,
    texts: Iterator[str],
    *,
    count: int,
    dtype: np.dtype[Any],
    width: int,
    metadata: Mapping[str, str],
) -> None:
    """Write all rows; the file appears when it is whole.

    Args:
        path: Output file; its suffix decides the format.
        chunks: The rows.
        texts: Their texts, for the formats that carry them.
        count: Number of rows.
        dtype: Type of a vector's elements.
        width: Elements of a vector.
        metadata: About the model, for Parquet's schema.
    """
    unfinished = path.with_name(path.name + ".writing")
    if path.suffix == ".npy":
        _write_npy(unfinished, chunks, count=count, dtype=dtype, width=width)
    elif path.suffix == ".jsonl":
        _write_jsonl(unfinished, chunks, texts)
    else:
        _write_parquet(unfinished, chunks, texts, dtype=dtype, width=width, metadata=metadata)
    unfinished.replace(path)


def json_row(text: str, vector: npt.NDArray[Any], tokens: int, *, truncated: bool) -> str:
    """One row as JSON; floats are the shortest that read back as the same float32."""
    if vector.dtype.kind == "f":
        numbers: list[Any] = [float(str(number)) for number in vector]
    else:
        numbers = vector.tolist()
    row = {"text": text, "token_count": tokens, "truncated": truncated, "embedding": numbers}
    return json.dumps(row, ensure_ascii=True)


def _write_npy(
    path: Path, chunks: Records, *, count: int, dtype: np.dtype[Any], width: int
) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": (count, width)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        for chunk in chunks:
            stream.write(np.ascontiguousarray(chunk["embedding"]).tobytes())


def _write_jsonl(path: Path, chunks: Records, texts: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for chunk in chunks:
            for text, row in zip(islice(texts, len(chunk)), chunk, strict=True):
                line = json_row(
                    text,
                    row["embedding"],
                    int(row["token_count"]),
                    truncated=bool(row["truncated"]),
                )
                stream.write(line + "\n")


def _write_parquet(
    path: Path,
    chunks: Records,
    texts: Iterator[str],
    *,
    dtype: np.dtype[Any],
    width: int,
    metadata: Mapping[str, str],
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    element = pa.from_numpy_dtype(dtype)
    schema = pa.schema(
        [
            pa.field("text", pa.string()),
            pa.field("token_count", pa.int32()),
            pa.field("truncated", pa.bool_()),
            pa.field("embedding", pa.list_(element, width)),
        ],
        metadata=dict(metadata),
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for chunk in chunks:
            flat = number_array(element, np.ascontiguousarray(chunk["embedding"]).reshape(-1))
            columns = [
                string_array(islice(texts, len(chunk))),
                number_array(pa.int32(), np.ascontiguousarray(chunk["token_count"], np.int32)),
                bool_array(chunk["truncated"]),
                pa.FixedSizeListArray.from_arrays(flat, width),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
