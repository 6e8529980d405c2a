"""Corpora on a real Triton and real Ray workers, which are killed in the middle of a run.

Rows in are rows out, and every vector is bit for bit that of a run that nobody disturbed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken import EmbeddingClient
from lasttoken.corpus import CorpusOptions, embed_corpus, run_here
from lasttoken.corpus.ray_runner import RayRunner
from lasttoken.local import LocalTriton

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROWS = 240
PART_ROWS = 12
MODEL = "smollm2_135m"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    draw = random.Random(5)
    words = ["rain", "snow", "river", "stone", "light", "money", "paper", "engine", "garden"]
    texts = [f"{i} " + " ".join(draw.choices(words, k=draw.randrange(1, 5))) for i in range(ROWS)]
    texts[37] = None
    path = tmp_path_factory.mktemp("corpus") / "texts.parquet"
    pq.write_table(pa.table({"id": range(ROWS), "text": texts}), path, row_group_size=50)
    return path


def options(texts: Path, output: Path, url: str, **changes) -> CorpusOptions:
    return CorpusOptions(
        **{
            "inputs": (str(texts),),
            "output": str(output),
            "model": MODEL,
            "urls": (url,),
            "prompt_name": "plain",
            "rows_per_part": PART_ROWS,
            "max_texts_per_request": 8,
            "server_wait_s": 120.0,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def undisturbed(smollm2_server, texts, tmp_path_factory) -> pa.Table:
    """What every run must come to: checked against plain calls of the client."""
    output = tmp_path_factory.mktemp("undisturbed") / "vectors"
    report = embed_corpus(options(texts, output, smollm2_server.grpc_url))
    assert (report.counts.rows, report.counts.nulls) == (ROWS, 1)
    table = pq.read_table(output)
    assert table.drop_columns(["embedding"]).equals(pq.read_table(texts))
    rows = [0, 1, 11, 12, 199, ROWS - 1]
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        direct = client.embed([table["text"][row].as_py() for row in rows], prompt_name="plain")
    written = np.array([table["embedding"][row].as_py() for row in rows], np.float32)
    assert np.array_equal(written, direct)
    return table


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, small, once for all tests of this module."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        num_cpus=2,
        object_store_memory=100 * 1024 * 1024,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()


def parts_in(output: Path) -> list[Path]:
    return sorted(output.glob("part-*"))


class Run:
    """A run in a thread of its own, while the test does harm."""

    def __init__(self, settings: CorpusOptions, runner=run_here) -> None:
        self.output = Path(settings.output)
        self._result: list[object] = []
        self._thread = threading.Thread(target=self._work, args=(settings, runner), daemon=True)
        self._thread.start()

    def _work(self, settings, runner) -> None:
        try:
            self._result.append(embed_corpus(settings, runner=runner))
        except BaseException as error:  # noqa: BLE001 - raised again in `result`
            self._result.append(error)

    def wait_for_parts(self, count: int) -> None:
        end = time.monotonic() + 120
        while len(parts_in(self.output)) < count:
            assert time.monotonic() < end
            assert self._thread.is_alive(), self._result
            time.sleep(0.01)
        assert len(parts_in(self.output)) < ROWS // PART_ROWS, "it was done before any harm"

    def result(self):
        self._thread.join(240)
        assert self._result, "the run did not end"
        if isinstance(self._result[0], BaseException):
            raise self._result[0]
        return self._result[0]


class Restarted:
    """A server that can be killed and started again on the same port."""

    def __init__(self, repository: Path, cache_folder: Path | None) -> None:
        self._make = lambda port: LocalTriton(repository, grpc_port=port, cache_folder=cache_folder)
        self._server = self._make(0)
        self._server.start()
        self.url = self._server.grpc_url

    def kill_and_start(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()
        self._server = self._make(int(self.url.rpartition(":")[2]))
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def restarted(smollm2_repository, cache_folder):
    server = Restarted(smollm2_repository, cache_folder)
    yield server
    server.stop()


def workers() -> list[psutil.Process]:
    """Ray's workers of this process that embed."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "PartWorker" in " ".join(child.cmdline())]


def test_a_killed_server_costs_no_row(restarted, texts, undisturbed, tmp_path):
    run = Run(options(texts, tmp_path / "out", restarted.url))
    run.wait_for_parts(3)
    restarted.kill_and_start()
    assert run.result().counts.rows == ROWS
    assert pq.read_table(tmp_path / "out").equals(undisturbed)


def test_a_killed_ray_worker_costs_no_row(ray, smollm2_server, texts, undisturbed, tmp_path):
    settings = options(texts, tmp_path / "out", smollm2_server.grpc_url)
    run = Run(settings, RayRunner(workers=2))
    run.wait_for_parts(3)
    (victim, *_) = workers()
    victim.kill()
    assert run.result().counts.rows == ROWS
    assert not victim.is_running()
    assert pq.read_table(tmp_path / "out").equals(undisturbed)


def test_a_server_killed_under_ray_costs_no_row_and_finished_parts_stay(
    ray, restarted, texts, undisturbed, tmp_path
):
    output = tmp_path / "out"
    run = Run(options(texts, output, restarted.url), RayRunner(workers=2))
    run.wait_for_parts(3)
    restarted.kill_and_start()
    assert run.result().counts.rows == ROWS
    assert pq.read_table(output).equals(undisturbed)

    for part in parts_in(output)[5:9]:
        part.unlink()
    kept = {part: part.stat().st_mtime_ns for part in parts_in(output)}
    resumed = options(texts, output, restarted.url, resume=True)
    report = embed_corpus(resumed, runner=RayRunner(workers=2))
    assert report.resumed_parts == len(kept)
    assert pq.read_table(output).equals(undisturbed)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept


def test_a_workers_error_arrives_as_it_is(ray, smollm2_server, tmp_path):
    from lasttoken import InvalidInput

    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"text": ["fine", ""]}), path)
    settings = options(path, tmp_path / "out", smollm2_server.grpc_url)
    with pytest.raises(InvalidInput, match=r"row 1 of .*bad\.parquet"):
        embed_corpus(settings, runner=RayRunner(workers=1))
