"""Parts: Parquet files that are there as a whole, or not at all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lasttoken.arrow_arrays import bool_array, number_array
from lasttoken.corpus.manifest import Manifest
from lasttoken.corpus.places import Place, publish
from lasttoken.corpus.plan import Part
from lasttoken.errors import InvalidInput

TEMPORARY = "_tmp-"
_ROW_GROUP_BYTES = 32 * 1024 * 1024
_METADATA = "lasttoken."
_NUMPY_TYPES = {pa.float32(): np.float32, pa.float16(): np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCounts:
    """What happened to the rows of a part, or of several.

    Attributes:
        rows: Rows in all.
        nulls: Rows without a text, whose vector is null.
        refused: Texts that the server refused, whose vector is null.
        truncated: Texts that were longer than the model's maximum and were cut.
        tokens: Tokens computed, prompts and special tokens included.
    """

    rows: int = 0
    nulls: int = 0
    refused: int = 0
    truncated: int = 0
    tokens: int = 0

    def __add__(self, other: PartCounts) -> PartCounts:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return PartCounts(**sums)


def output_schema(
    schema: pa.Schema, content: Mapping[str, Any], *, run: str, kept: tuple[str, ...] | None
) -> pa.Schema:
    """Schema of every part: the columns kept, the vectors, and in the metadata how they were made.

    Args:
        schema: The columns that are read.
        content: The manifest's content.
        run: Digest of the content.
        kept: Columns to copy; None for all.
    """
    model = content["model"]
    described = {
        "model": model["name"],
        "source": model["source"],
        "revision": model["revision"],
        "precision": model["precision"],
        "runtime": model["runtime"],
        "digest": model["digest"],
        "dimensions": content["dimensions"],
        "prompt_name": content["prompt_name"],
        "instruction": content["instruction"],
        "text_column": content["text_column"],
        "vector_column": content["vector_column"],
        "normalised": True,
        "version": metadata.version("lasttoken"),
        "run": run,
    }
    text = {
        f"{_METADATA}{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in described.items()
        if value is not None
    }
    element = pa.float32() if content["vector_dtype"] == "float32" else pa.float16()
    vectors = pa.field(
        content["vector_column"],
        pa.list_(pa.field("element", element, nullable=False), content["dimensions"]),
    )
    columns = [schema.field(name) for name in (schema.names if kept is None else kept)]
    return pa.schema([*columns, vectors], metadata=text)


def vector_array(
    vectors: npt.NDArray[np.float32], present: npt.NDArray[np.bool_], kind: pa.DataType
) -> pa.Array:
    """Make the column of a block.

    Args:
        vectors: `[n, D]`; rows that are not present may hold anything finite.
        present: `[n]`, False where the vector is null.
        kind: Fixed-size list of float32 or float16.
    """
    elements = np.ascontiguousarray(vectors, dtype=_NUMPY_TYPES[kind.value_type]).reshape(-1)
    mask = None if present.all() else bool_array(~present)
    values = number_array(kind.value_type, elements)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=mask)


class PartWriter:
    """Writes one part under a temporary name, and gives it its own when it is complete."""

    def __init__(self, folder: Place, part: Part, schema: pa.Schema, *, compression: str) -> None:
        """Begin a part.

        Args:
            folder: Where the parts go.
            part: Which one.
            schema: From `output_schema`.
            compression: Parquet codec.
        """
        self._folder = folder
        self._part = part
        self._schema = schema
        self._counts = PartCounts()
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._temporary = folder.inside(f"{TEMPORARY}{part.name}-{uuid.uuid4().hex[:8]}")
        self._stream = folder.filesystem.open_output_stream(self._temporary)
        text_columns = schema.names[:-1]
        self._parquet = pq.ParquetWriter(
            self._stream,
            schema,
            compression=compression,
            use_dictionary=text_columns,  # vectors do not repeat
            write_statistics=text_columns,
        )

    def append(self, rows: pa.RecordBatch, vectors: pa.Array, counts: PartCounts) -> None:
        """Add the next rows of the part."""
        columns = [rows.column(name) for name in self._schema.names[:-1]]
        batch = pa.RecordBatch.from_arrays([*columns, vectors], schema=self._schema)
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        self._counts += counts
        if self._waiting_bytes >= _ROW_GROUP_BYTES:
            self._write_row_group()

    def commit(self) -> PartCounts:
        """Finish the part, which must have all its rows."""
        assert self._counts.rows == self._part.rows, (self._counts, self._part)
        self._write_row_group()
        self._parquet.add_key_value_metadata(
            {f"{_METADATA}counts": json.dumps(asdict(self._counts))}
        )
        self._parquet.close()
        self._stream.close()
        publish(self._folder, self._temporary, self._part.name)
        return self._counts

    def abandon(self) -> None:
        """Leave nothing of the part behind."""
        with suppress(OSError, pa.ArrowException):
            self._parquet.close()
        with suppress(OSError, pa.ArrowException):
            self._stream.close()
        with suppress(OSError, pa.ArrowException):
            self._folder.filesystem.delete_file(self._temporary)

    def _write_row_group(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._parquet.write_table(table, row_group_size=max(1, table.num_rows))
            self._waiting.clear()
            self._waiting_bytes = 0


def finished_counts(folder: Place, part: Part, manifest: Manifest) -> PartCounts | None:
    """Read what a part that is there says of itself; None where it is not whole.

    Raises:
        InvalidInput: It belongs to another run.
    """
    path = folder.inside(part.name)
    try:
        with folder.filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
            rows = parquet.metadata.num_rows
            described = parquet.metadata.metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    run = described.get(f"{_METADATA}run".encode(), b"").decode()
    if run != manifest.run:
        raise InvalidInput(
            f"{path} belongs to another run ({run or 'none of lasttoken'}); move it away, or write "
            "to another folder"
        )
    counts = described.get(f"{_METADATA}counts".encode())
    if rows != part.rows or counts is None:
        return None
    return PartCounts(**json.loads(counts))
