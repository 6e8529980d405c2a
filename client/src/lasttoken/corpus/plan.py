"""Which rows make which part: decided by the inputs alone, so a resumed run decides the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lasttoken.corpus.options import CorpusOptions
from lasttoken.corpus.places import Place, parquet_files, place_of
from lasttoken.errors import InvalidInput

PART_VECTOR_BYTES = 128 * 1024 * 1024
MOST_ROWS_PER_PART = 32_768
_FOOTERS_AT_A_TIME = 16
_ARE_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One input file.

    Attributes:
        input: Which of the run's inputs it belongs to.
        path: Its path in that input's file system.
        size_bytes: Its size.
        rows: Its rows.
    """

    input: int
    path: str
    size_bytes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one input file that become one output file.

    Attributes:
        number: Its place among all parts.
        source: Number of the input file.
        start: First row in that file.
        stop: First row after it.
    """

    number: int
    source: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    @property
    def name(self) -> str:
        """Name of its file; names sort in the order of the rows."""
        return f"part-{self.number:07d}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All input files, and the parts that their rows go to.

    Attributes:
        sources: The input files in order.
        parts: The parts in order; every row is in exactly one.
        schema: Schema of the columns that are read.
    """

    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        """Rows of all inputs."""
        return sum(source.rows for source in self.sources)


def rows_per_part(options: CorpusOptions, dimensions: int) -> int:
    """Rows of a part, as the user said or as the size of a vector suggests."""
    if options.rows_per_part is not None:
        return options.rows_per_part
    element_bytes = 4 if options.vector_dtype == "float32" else 2
    return max(1, min(MOST_ROWS_PER_PART, PART_VECTOR_BYTES // (dimensions * element_bytes)))


def make_plan(options: CorpusOptions, *, part_rows: int) -> Plan:
    """Look at the footers of all input files and lay out the parts.

    Raises:
        InvalidInput: An input is missing, is no Parquet, or has not the columns that it should.
    """
    found: list[tuple[int, Place, str]] = []
    output = place_of(options.output)
    for number, url in enumerate(options.inputs):
        place = place_of(url)
        if place.would_read(output):
            raise InvalidInput(
                f"the output {options.output!r} lies where the input {url!r} is looked for, so "
                "that --resume would take its parts for inputs; choose another folder"
            )
        found += [(number, place, path) for path in parquet_files(place)]
    with ThreadPoolExecutor(_FOOTERS_AT_A_TIME) as threads:
        looked = list(threads.map(lambda item: _look(*item), found))
    schema = _columns_read(options, looked[0][1], looked[0][0].path)
    for source, its_schema in looked[1:]:
        if not _columns_read(options, its_schema, source.path).equals(schema):
            raise InvalidInput(
                f"{source.path} has other columns than {looked[0][0].path}:\n{its_schema}\n"
                "embed files of different schemas in separate runs, or name common --columns"
            )
    sources = tuple(source for source, _ in looked)
    return Plan(sources=sources, parts=tuple(lay_out(sources, part_rows)), schema=schema)


def lay_out(sources: Sequence[Source], part_rows: int) -> Iterator[Part]:
    """Cut each file into parts of `part_rows` rows, the last of a file with what is left."""
    number = 0
    for index, source in enumerate(sources):
        for start in range(0, source.rows, part_rows):
            stop = min(start + part_rows, source.rows)
            yield Part(number=number, source=index, start=start, stop=stop)
            number += 1


def _look(number: int, place: Place, path: str) -> tuple[Source, pa.Schema]:
    try:
        size = place.filesystem.get_file_info(path).size
        with place.filesystem.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
            rows = parquet.metadata.num_rows
            schema = parquet.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(f"{path} cannot be read as Parquet: {error}") from error
    return Source(input=number, path=path, size_bytes=size, rows=rows), schema


def _columns_read(options: CorpusOptions, schema: pa.Schema, path: str) -> pa.Schema:
    """The columns that are copied, and the text column where it is not among them, at the end."""
    kept = options.columns if options.columns is not None else tuple(schema.names)
    for name in (options.text_column, *kept):
        if schema.get_field_index(name) < 0:
            raise InvalidInput(
                f"{path} has no one column {name!r}; it has {', '.join(map(repr, schema.names))}"
            )
    if options.vector_column in kept:
        raise InvalidInput(
            f"{path} has a column {options.vector_column!r} already; "
            "name the vectors otherwise with --vector-column, or leave it out with --columns"
        )
    text = schema.field(options.text_column)
    kind = text.type.value_type if pa.types.is_dictionary(text.type) else text.type
    if not any(fits(kind) for fits in _ARE_STRINGS):
        raise InvalidInput(f"{path}: column {text.name!r} holds {text.type}; it must hold strings")
    names = dict.fromkeys([*kept, options.text_column])
    return pa.schema([schema.field(name) for name in names])
