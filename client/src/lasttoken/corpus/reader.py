"""Rows of the wanted parts, streamed in blocks: no file and no row group is held as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq

from lasttoken.corpus.places import place_of
from lasttoken.corpus.plan import Part, Plan
from lasttoken.errors import InvalidInput

BLOCK_ROWS = 1024
_BUFFER_BYTES = 1024 * 1024
"""Of each column that is being read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of one part.

    Attributes:
        part: The part.
        first_row: Number of the first row in the input file.
        rows: The columns read, `pyarrow.RecordBatch`.
    """

    part: Part
    first_row: int
    rows: pa.RecordBatch


def read_blocks(plan: Plan, parts: Sequence[Part], inputs: Sequence[str]) -> Iterator[Block]:
    """Read the rows of some parts in order.

    Args:
        plan: The plan that they belong to.
        parts: Which ones, in ascending order.
        inputs: The inputs as the user gave them.

    Yields:
        Blocks of at most `BLOCK_ROWS` rows, none of which spans two parts.

    Raises:
        InvalidInput: A file has changed since the plan was made, or cannot be decoded.
    """
    for number, parts_of_source in groupby(parts, key=lambda part: part.source):
        source = plan.sources[number]
        filesystem = place_of(inputs[source.input]).filesystem
        try:
            with (
                filesystem.open_input_file(source.path) as file,
                pq.ParquetFile(file, buffer_size=_BUFFER_BYTES) as parquet,
            ):
                if parquet.metadata.num_rows != source.rows:
                    raise InvalidInput(
                        f"{source.path} has {parquet.metadata.num_rows} rows and had "
                        f"{source.rows} when the run began; an input must not change"
                    )
                for run in _runs(list(parts_of_source)):
                    yield from _read_run(parquet, run, plan.schema.names)
        except pa.ArrowInvalid as error:
            raise InvalidInput(f"{source.path} cannot be read as Parquet: {error}") from error


def _runs(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Group parts that follow one another, so that each row group is decoded once for them."""
    run: list[Part] = []
    for part in parts:
        if run and run[-1].stop != part.start:
            yield run
            run = []
        run.append(part)
    yield run


def _read_run(
    parquet: pq.ParquetFile, run: Sequence[Part], columns: Sequence[str]
) -> Iterator[Block]:
    row_groups, row = _row_groups(parquet.metadata, run[0].start, run[-1].stop)
    parts = iter(run)
    part = next(parts)
    for batch in parquet.iter_batches(BLOCK_ROWS, row_groups=row_groups, columns=columns):
        position = max(0, run[0].start - row)
        while position < batch.num_rows:
            if row + position == part.stop:
                following = next(parts, None)
                if following is None:
                    return
                part = following
            count = min(batch.num_rows - position, part.stop - row - position)
            rows = batch.slice(position, count)
            yield Block(part=part, first_row=row + position, rows=rows)
            position += count
        row += batch.num_rows


def _row_groups(metadata: pq.FileMetaData, start: int, stop: int) -> tuple[list[int], int]:
    """Row groups that hold rows `start` to `stop`, and the number of their first row."""
    overlapping: list[int] = []
    first_row = row = 0
    for number in range(metadata.num_row_groups):
        rows = metadata.row_group(number).num_rows
        if row < stop and row + rows > start:
            if not overlapping:
                first_row = row
            overlapping.append(number)
        row += rows
    return overlapping, first_row
