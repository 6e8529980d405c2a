from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken.corpus import CorpusOptions
from unit.client.fake_triton import DIMENSIONS, MODEL, FakeTriton, vector_of

CARD = {"revision": "r1", "precision": "fp32", "source": "tests", "sha256": {"graph": "abc"}}


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    triton = FakeTriton()
    triton.card = json.dumps(CARD)
    with triton.serve() as server:
        yield server


@pytest.fixture
def options(fake, tmp_path) -> Any:
    """Makes options for the fake server, from a table that it writes or from what is there."""

    def make(table: pa.Table | None = None, *, row_group_size: int = 1000, **changes: Any):
        settings: dict[str, Any] = {
            "inputs": (str(tmp_path / "in.parquet"),),
            "output": str(tmp_path / "out"),
            "model": MODEL,
            "urls": (fake.url,),
            **changes,
        }
        if table is not None:
            pq.write_table(table, settings["inputs"][0], row_group_size=row_group_size)
        return CorpusOptions(**settings)

    return make


def some_rows(count: int, prefix: str = "text") -> pa.Table:
    texts = [f"{prefix} {i} " + "x" * (i * 7 % 50) for i in range(count)]
    schema = {"id": pa.int64(), "text": pa.string(), "tags": pa.list_(pa.string())}
    columns = {"id": list(range(count)), "text": texts, "tags": [[str(i)] for i in range(count)]}
    return pa.table(columns, schema=pa.schema(schema))


def expected(texts: list[str | None]) -> list[list[float] | None]:
    return [None if text is None else vector_of(text).tolist() for text in texts]


def check_output(output: Any, table: pa.Table, column: str = "embedding") -> pa.Table:
    """Every row of the input is there once, in order, with the vector of its text, bit for bit."""
    result = pq.read_table(output)
    assert result.drop_columns([column]).equals(table)
    assert result.schema.field(column).type.list_size == DIMENSIONS
    assert result[column].to_pylist() == expected(table["text"].to_pylist())
    return result


def as_array(column: pa.ChunkedArray) -> np.ndarray:
    return np.stack([np.array(row, np.float32) for row in column.to_pylist()])
