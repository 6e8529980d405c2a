"""Parts in, files out: reads ahead, keeps the servers busy, writes in order, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lasttoken.corpus.manifest import Manifest, ModelIdentity
from lasttoken.corpus.options import CorpusOptions
from lasttoken.corpus.places import place_of
from lasttoken.corpus.plan import Part, Plan
from lasttoken.corpus.reader import Block, read_blocks
from lasttoken.corpus.servers import ServerPool
from lasttoken.corpus.writer import PartCounts, PartWriter, output_schema, vector_array
from lasttoken.embeddings import Embeddings
from lasttoken.encoding import split_rows
from lasttoken.errors import InvalidInput, ServerError

BLOCKS_AHEAD = 6
"""Blocks that are read and not written: the bound of the memory."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker must know; it is pickled to other machines.

    Attributes:
        options: The run.
        plan: Its parts.
        identity: The model.
        manifest: What every part carries.
    """

    options: CorpusOptions
    plan: Plan
    identity: ModelIdentity
    manifest: Manifest

    @property
    def dimensions(self) -> int:
        """Elements of the vectors that are written."""
        return self.options.dimensions or self.identity.dimensions

    def schema(self) -> pa.Schema:
        """Schema of the parts."""
        return output_schema(
            self.plan.schema,
            self.manifest.content,
            run=self.manifest.run,
            kept=self.options.columns,
        )


async def embed_parts(
    job: Job,
    parts: Sequence[Part],
    *,
    on_rows: Callable[[int], None],
    on_part: Callable[[Part, PartCounts], None],
) -> None:
    """Embed some parts of a run and write them.

    Args:
        job: The run.
        parts: Which of its parts, in ascending order.
        on_rows: Told how many rows more have been dealt with.
        on_part: Told of each part that is written, from another thread.

    Raises:
        LasttokenError: A text was refused, the servers stayed away, or an input cannot be read.
            Parts that were reported are complete; of others nothing is left.
    """
    folder = place_of(job.options.output)
    schema = job.schema()
    writer: PartWriter | None = None

    def begin(part: Part) -> None:
        nonlocal writer  # set in the thread: a cancellation that comes meanwhile must find it
        writer = PartWriter(folder, part, schema, compression=job.options.compression)

    def commit(part: Part) -> None:
        nonlocal writer  # in the thread too: a part that is written is told, cancelled or not
        assert writer is not None
        on_part(part, writer.commit())
        writer = None

    async with (
        ServerPool(job.options, job.identity) as pool,
        aclosing(_embedded_blocks(job, parts, pool, on_rows)) as all_embedded,
    ):
        try:
            async for embedded in all_embedded:
                part = embedded.block.part
                if writer is None:
                    await _in_thread(begin, part)
                    assert writer is not None
                await _in_thread(_append, writer, embedded, schema)
                if embedded.block.first_row + embedded.block.rows.num_rows == part.stop:
                    await _in_thread(commit, part)
        finally:
            if writer is not None:
                writer.abandon()


class _EmbeddedBlock:
    """A block and what is known of its rows so far."""

    def __init__(self, block: Block, job: Job) -> None:
        self.block = block
        self.texts: list[str | None] = block.rows.column(job.options.text_column).to_pylist()
        count = len(self.texts)
        self.vectors = np.zeros((count, job.dimensions), np.float32)
        self.has_text = np.array([text is not None for text in self.texts], np.bool_)
        self.present = np.zeros(count, np.bool_)
        self.truncated = 0
        self.tokens = 0

    def put(self, rows: npt.NDArray[np.intp], embeddings: Embeddings) -> None:
        self.vectors[rows] = embeddings.vectors
        self.present[rows] = True
        self.truncated += int(embeddings.truncated.sum())
        self.tokens += int(embeddings.token_counts.sum())

    def counts(self) -> PartCounts:
        texts = int(self.has_text.sum())
        return PartCounts(
            rows=len(self.texts),
            nulls=len(self.texts) - texts,
            refused=texts - int(self.present.sum()),
            truncated=self.truncated,
            tokens=self.tokens,
        )


async def _embedded_blocks(
    job: Job, parts: Sequence[Part], pool: ServerPool, on_rows: Callable[[int], None]
) -> AsyncGenerator[_EmbeddedBlock, None]:
    """Blocks with their vectors in the order of the rows, several of them on their way."""
    blocks = read_blocks(job.plan, parts, job.options.inputs)
    under_way: deque[asyncio.Task[_EmbeddedBlock]] = deque()
    try:
        while (block := await _in_thread(next, blocks, None)) is not None:
            under_way.append(asyncio.create_task(_embed_block(job, block, pool, on_rows)))
            if len(under_way) == BLOCKS_AHEAD:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        await _cancel(under_way)


async def _embed_block(
    job: Job, block: Block, pool: ServerPool, on_rows: Callable[[int], None]
) -> _EmbeddedBlock:
    embedded = _EmbeddedBlock(block, job)
    rows = np.flatnonzero(embedded.has_text)
    on_rows(len(embedded.texts) - len(rows))
    lengths = [len((embedded.texts[row] or "").encode()) for row in rows]
    requests = [
        asyncio.create_task(_embed_rows(job, embedded, rows[chosen], pool, on_rows))
        for chosen in split_rows(lengths, job.options.max_texts_per_request)
    ]
    try:
        await asyncio.gather(*requests)
    finally:
        await _cancel(requests)
    return embedded


async def _embed_rows(
    job: Job,
    embedded: _EmbeddedBlock,
    rows: npt.NDArray[np.intp],
    pool: ServerPool,
    on_rows: Callable[[int], None],
) -> None:
    """Embed the texts of one request; of a request that is refused, each text by itself."""
    try:
        embeddings = await pool.embed([embedded.texts[row] or "" for row in rows])
    except (InvalidInput, ServerError) as error:
        if len(rows) > 1:
            for row in rows:
                await _embed_rows(job, embedded, np.array([row]), pool, on_rows)
            return
        if job.options.on_refused == "fail":
            path = job.plan.sources[embedded.block.part.source].path
            raise type(error)(
                f"row {embedded.block.first_row + rows[0]} of {path}: {error}; on_refused 'null' "
                "goes on without the vectors of such rows",
                status=error.status,
            ) from error
    else:
        embedded.put(rows, embeddings)
    on_rows(len(rows))


def _append(writer: PartWriter, embedded: _EmbeddedBlock, schema: pa.Schema) -> None:
    kind = schema.field(schema.names[-1]).type
    vectors = vector_array(embedded.vectors, embedded.present, kind)
    writer.append(embedded.block.rows, vectors, embedded.counts())


async def _in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking input or output in a thread, which has ended when this has, cancelled or not."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


async def _cancel(tasks: Iterable[asyncio.Task[_T]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
