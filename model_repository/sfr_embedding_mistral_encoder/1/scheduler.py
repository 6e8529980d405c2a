"""The scheduler: a queue, threads that run batches on the engine, a thread that gives answers.

It imports nothing of Triton's. Answers are given on their own thread, so that the engine computes
the next batch meanwhile; the plan of a batch is made when the engine is free, with all that has
arrived by then (planning and packing take well under 1 % of a batch's time). An engine that takes a
second batch while it computes the first is given it early where the queue fills a batch; a thread
awaits what it has begun.

An engine that computes two batches beside each other is given interactive rows that arrive while
bulk is being computed at once, on a thread of their own: they share its processors instead of
waiting for its end.

An engine with streams computes one batch on all its threads as long as what waits does not fill a
batch for each stream, and then one batch a stream, each on one thread, until nothing waits: threads
that need not wait for each other within a batch do more.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn, Protocol

import numpy as np
from busy_time import BusyTime
from encode_errors import EncodeError, EngineFailed, Overloaded, ShuttingDown
from encode_request import EncodeRequest, Row
from engine import Encode, Engine, OverlappingEngine, StreamingEngine
from isolated_rows import Result, encode_isolating
from numpy.typing import NDArray
from row_queue import Dropped, RowQueue, is_bulk

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """What one run of the engine was.

    Attributes:
        rows: Rows of the batch.
        real_tokens: Tokens of its texts.
        computed_tokens: Tokens that the engine computed, padding included.
        shared_tokens: Tokens that it did not have to compute: another row begins with them too.
        kept_tokens: Tokens that it did not have to compute: an earlier batch's rows began with
            them.
        real_attention_cells: Sum of the squared row lengths.
        computed_attention_cells: Attention cells that the engine computed.
        seconds: Time in the engine.
        busy_seconds: Time for which the engine computed anything, as far as no batch that ended
            before has told it.
        queue_seconds: Time that its rows waited in the queue, summed over the rows.
        answer_seconds: Time from the engine's end until each row was handed on, summed likewise.
        queue_tokens: Tokens that wait when its rows have been answered.
        failed_rows: Rows answered with an error.
    """

    rows: int
    real_tokens: int
    computed_tokens: int
    shared_tokens: int
    kept_tokens: int
    real_attention_cells: int
    computed_attention_cells: int
    seconds: float
    busy_seconds: float
    queue_seconds: float
    answer_seconds: float
    queue_tokens: int
    failed_rows: int


class SchedulerObserver(Protocol):
    """Is told what happens; called from the answering thread only."""

    def batch_done(self, report: BatchReport) -> None:
        """A batch has been computed."""
        ...

    def request_dropped(self, reason: str) -> None:
        """A waiting request was given up: ``expired``, ``cancelled`` or ``shutting_down``."""
        ...

    def set_queue_tokens(self, tokens: int) -> None:
        """So many tokens wait now that requests were given up."""
        ...


@contextmanager
def logged_failure(words: str = "an answer could not be delivered") -> Iterator[None]:
    """Go on after an answer that cannot be given: one caller's broken channel is not another's."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, it is logged
        _log.exception(words)


def _raise(error: Exception) -> NoReturn:
    raise error


class Scheduler:
    """Owns the queue and the threads.

    Args:
        engine: Runs batches; called from one thread at a time, or from more where it says so.
        row_queue: Forms batches; owned by the scheduler from now on.
        observer: Is told what happens.
        clock: Seconds; the clock of the requests' deadlines.
    """

    def __init__(
        self,
        engine: Engine,
        row_queue: RowQueue,
        observer: SchedulerObserver,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._queue = row_queue
        self._observer = observer
        self._clock = clock
        self._overlaps = isinstance(engine, OverlappingEngine)
        self._streams = engine.streams if isinstance(engine, StreamingEngine) else 1
        self._engine_lock = threading.Lock()
        self._busy = BusyTime()
        self._changed = threading.Condition()
        self._closing = False
        self._in_flight = 0
        self._bulk_in_flight = 0
        self._whole_engine_runs = False
        self._ended = False
        self._begun: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._engine_threads = [
            threading.Thread(target=self._run_batches, name="engine", daemon=True)
            for _ in range(self._streams)
        ]
        self._threads = [
            threading.Thread(target=self._await_batches, name="batches in flight", daemon=True),
            threading.Thread(target=self._give_answers, name="answers", daemon=True),
        ]
        self._beside = threading.Thread(target=self._run_beside_bulk, name="beside", daemon=True)
        beside = [self._beside] if engine.runs_beside else []
        for thread in [*self._engine_threads, *self._threads, *beside]:
            thread.start()

    @property
    def queue_tokens(self) -> int:
        """Tokens waiting now."""
        return self._queue.tokens

    def submit(self, request: EncodeRequest) -> None:
        """Queue a request; it will be answered exactly once, unless this raises.

        Raises:
            InvalidRows: It is larger than the queue.
            Overloaded: The queue is full.
            ShuttingDown: The scheduler is closing.
        """
        with self._changed:
            if self._closing:
                raise ShuttingDown("the server is shutting down; send the request to another one")
            request.submitted_s = self._clock()
            try:
                self._queue.add(request)
            except Overloaded:
                # What has expired is no reason to refuse what has not, however long a batch takes.
                dropped = self._queue.drop_expired(request.submitted_s)
                self._drop(dropped)
                if not dropped:
                    raise
                self._queue.add(request)
            self._changed.notify_all()

    def close(self, *, drain_timeout_s: float) -> None:
        """Refuse new requests, work off the queue, answer what is left with an error.

        Args:
            drain_timeout_s: How long the queue is worked off.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        drained_s = time.monotonic() + drain_timeout_s
        for thread in self._engine_threads:
            thread.join(max(0.0, drained_s - time.monotonic()))
        with self._changed:
            left = self._queue.clear()
        message = "the server shut down before the request was computed; send it to another one"
        self._drop([(request, ShuttingDown(message)) for request in left])
        for thread in self._engine_threads:
            thread.join()  # at most the batches that are running
        if self._beside.ident is not None:
            self._beside.join()
        awaiting_thread, answer_thread = self._threads
        self._begun.put(None)
        awaiting_thread.join()
        self._answers.put(None)
        answer_thread.join()

    def _run_batches(self) -> None:
        while True:
            with self._changed:
                while not self._may_start() and (len(self._queue) or not self._closing):
                    self._changed.wait()
                if not len(self._queue):
                    self._ended = True
                    self._changed.notify_all()
                    return
                in_stream = self._begins_in_stream()
                next_batch = partial(self._queue.next_batch, in_stream=in_stream)
                rows, dropped = self._next_batch(next_batch)
                if rows:
                    self._in_flight += 1
                    self._bulk_in_flight += is_bulk(rows)
                    self._whole_engine_runs = not in_stream
                self._changed.notify_all()
            self._drop(dropped)
            if not rows:
                continue
            finish = partial(self._finish, self._start(rows, in_stream), is_bulk(rows))
            if self._overlaps:
                self._begun.put(finish)
            else:
                finish()

    def _run_beside_bulk(self) -> None:
        while True:
            with self._changed:
                while not (self._only_bulk_runs() and self._queue.interactive_waits):
                    if self._ended:
                        return
                    self._changed.wait()
                rows, dropped = self._next_batch(self._queue.next_interactive_batch)
            self._drop(dropped)
            if rows:
                self._start(rows)()

    def _only_bulk_runs(self) -> bool:
        return 0 < self._in_flight == self._bulk_in_flight and not self._may_start()

    def _begins_in_stream(self) -> bool:
        if self._streams == 1:
            return False
        return self._in_flight > 0 or self._queue.fills_streams(self._streams)

    def _may_start(self) -> bool:
        """Whether to form a batch now; a second one that overlaps only where it would be full."""
        if not self._in_flight:
            return bool(len(self._queue))
        if self._streams > 1:
            stream_is_free = not self._whole_engine_runs and self._in_flight < self._streams
            return stream_is_free and bool(len(self._queue))
        return self._overlaps and self._in_flight < 2 and self._queue.fills_a_batch

    def _await_batches(self) -> None:
        while (finish := self._begun.get()) is not None:
            finish()

    def _finish(self, finish: Callable[[], None], of_bulk: bool) -> None:
        finish()
        with self._changed:
            self._in_flight -= 1
            self._bulk_in_flight -= of_bulk
            self._changed.notify_all()

    def _next_batch(
        self, next_batch: Callable[[float], tuple[list[Row], list[Dropped]]]
    ) -> tuple[list[Row], list[Dropped]]:
        try:
            return next_batch(self._clock())
        except Exception as error:  # noqa: BLE001 - nobody may wait for a thread that is gone
            _log.exception("no batch could be formed; everything that waits is given up")
            failure = EngineFailed(f"no batch could be formed: {error}")
            return [], [(request, failure) for request in self._queue.clear()]

    def _start(self, rows: list[Row], in_stream: bool = False) -> Callable[[], None]:
        """Begin a batch; the returned function computes or awaits it, and hands it on."""
        encode: Encode = self._encode
        if in_stream and isinstance(self._engine, StreamingEngine):
            encode = self._engine.encode_in_stream
        lengths = np.array([len(row.tokens) for row in rows], np.int32)
        input_ids = np.concatenate([row.tokens for row in rows])
        now_s = self._clock()
        queue_seconds = sum(now_s - row.request.submitted_s for row in rows)
        started_s = time.perf_counter()
        self._busy.begin()
        vectors = self._start_engine(encode, input_ids, lengths)

        def finish() -> None:
            row_tokens = [row.tokens for row in rows]
            results, work = encode_isolating(self._engine, encode, row_tokens, vectors)
            ended_s = time.perf_counter()
            busy_seconds = self._busy.end()
            # Of an overlapping one, from when the engine had nothing else to do.
            seconds = busy_seconds if self._overlaps else ended_s - started_s
            report = BatchReport(
                rows=len(rows),
                real_tokens=int(lengths.sum()),
                computed_tokens=work.tokens,
                shared_tokens=work.shared_tokens,
                kept_tokens=work.kept_tokens,
                real_attention_cells=int((lengths.astype(np.int64) ** 2).sum()),
                computed_attention_cells=work.attention_cells,
                seconds=seconds,
                busy_seconds=busy_seconds,
                queue_seconds=queue_seconds,
                answer_seconds=0.0,  # this and the next are known when they have been given
                queue_tokens=0,
                failed_rows=sum(isinstance(result, EncodeError) for result in results),
            )
            self._hand_on(rows, results, report, ended_s)

        return finish

    def _start_engine(
        self, encode: Encode, input_ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> Callable[[], NDArray[np.float32]]:
        if not isinstance(self._engine, OverlappingEngine):
            return partial(encode, input_ids, lengths)
        try:
            with self._engine_lock:
                return self._engine.start(input_ids, lengths)
        except Exception as error:  # noqa: BLE001 - raised where the vectors are awaited
            return partial(_raise, error)

    def _encode(
        self, input_ids: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        if not self._overlaps:
            return self._engine.encode(input_ids, lengths)
        with self._engine_lock:  # rows tried alone, while the next batch is started
            return self._engine.encode(input_ids, lengths)

    def _hand_on(
        self,
        rows: list[Row],
        results: list[Result],
        report: BatchReport,
        ended_s: float,
    ) -> None:
        """Let the answers of a batch be given."""
        if report.failed_rows:  # no other row of these requests is worth computing
            with self._changed:
                self._queue.remove(
                    row.request
                    for row, result in zip(rows, results, strict=True)
                    if isinstance(result, EncodeError)
                )
        self._answers.put(lambda: self._answer(rows, results, report, ended_s))

    def _answer(
        self,
        rows: list[Row],
        results: list[Result],
        report: BatchReport,
        ended_s: float,
    ) -> None:
        answer_seconds = 0.0
        for row, result in zip(rows, results, strict=True):
            with logged_failure():
                if isinstance(result, EncodeError):
                    row.request.fail(result)
                else:
                    row.request.add_vector(row.index, result)
            answer_seconds += time.perf_counter() - ended_s
        # Asked now: with a row that failed the rest of its request has left the queue.
        report = replace(report, answer_seconds=answer_seconds, queue_tokens=self._queue.tokens)
        self._observer.batch_done(report)

    def _drop(self, dropped: list[Dropped]) -> None:
        for request, error in dropped:
            # Bound now: the loop's variables have moved on when the thread gets to it.
            def give_up(request: EncodeRequest = request, error: EncodeError = error) -> None:
                request.fail(error)
                self._observer.request_dropped(error.reason)

            self._answers.put(give_up)
        if dropped:  # no batch may come that would say so
            self._answers.put(lambda: self._observer.set_queue_tokens(self._queue.tokens))

    def _give_answers(self) -> None:
        while (answer := self._answers.get()) is not None:
            with logged_failure():
                answer()
