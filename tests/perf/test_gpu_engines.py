"""What an engine of the GPU suite lacks on a machine costs its own figures and no others."""

import dataclasses
import sys
import types

import numpy as np
import onnxruntime
import pytest

from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from lasttoken_export.tensorrt.library import TensorRTLibrary
from lasttoken_export.tensorrt.plan_step import MAX_ROWS
from lasttoken_export.tensorrt.target import TargetDevice
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.gpu_suite import measuring, placement
from lasttoken_perf.gpu_suite.reference import load_reference
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_config
from lasttoken_perf.gpu_suite.step_report import StepUnavailable
from lasttoken_perf.gpu_suite.steps import served
from lasttoken_perf.gpu_suite.token_rows import CORPORA, QUERIES, compared_rows, make_rows, pack

CUDA = "CUDAExecutionProvider"


@pytest.fixture
def settings(tmp_path):
    return SuiteSettings(
        shape="tiny", device="cpu", precision="fp32", rows=4, queries=2, batch_tokens=512,
        repeats=1, seed=7, work_folder=tmp_path,
    )  # fmt: skip


def test_batches_have_no_more_rows_than_a_plan_is_built_for(settings):
    on_a_gpu = dataclasses.replace(settings, shape="sfr", rows=1024, batch_tokens=8192)
    for corpus in CORPORA:
        rows = make_rows(on_a_gpu, corpus)
        batches = pack(rows.rows, on_a_gpu.batch_tokens)
        assert max(len(batch.row_lengths) for batch in batches) <= MAX_ROWS
        assert sorted(i for batch in batches for i in batch.indices) == list(range(1024))


def test_a_provider_is_looked_for_when_its_libraries_are_loaded(monkeypatch):
    providers = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: providers.append(CUDA))
    assert placement.has_provider("CPUExecutionProvider")
    assert providers == ["CPUExecutionProvider"]
    assert placement.has_provider(CUDA)


def test_what_a_plan_needs_to_run_is_looked_for_before_it_is_built(settings, monkeypatch):
    from lasttoken_perf.gpu_suite.steps import tensorrt

    library = TensorRTLibrary(runtime="tensorrt", module=None, version="11.4")
    target = TargetDevice(compute_capability=90, name="NVIDIA H200")
    monkeypatch.setattr(tensorrt, "_library", lambda precision: (library, target))
    monkeypatch.setattr(tensorrt, "export_repository", lambda *_: pytest.fail("exported"))
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(StepUnavailable, match="pip install 'cuda-bindings>=13'"):
        tensorrt.run(dataclasses.replace(settings, device="cuda"))


def test_single_texts_are_timed_when_every_shape_has_its_cuda_graph(settings, monkeypatch):
    seen, discarded = [], []
    graphs = server_module(ENCODER, "graph_cache").GraphCache(
        capacity=server_module(ENCODER, "tensorrt_engine")._GRAPHS, max_tokens=512,
        sightings=server_module(ENCODER, "tensorrt_engine")._GRAPH_SIGHTINGS,
        discard=discarded.append,
    )  # fmt: skip

    def embed(rows):
        """What the engine does: a context of its own, then a capture, then launches."""
        [row] = rows
        shape = (len(row), 1, len(row))
        graph = graphs.find(shape)
        seen.append("nothing" if graph is None else "launch" if graph else "capture")
        if graph is None and graphs.is_due(shape):
            graphs.add(shape, [])
        elif graph is not None and not graph:
            graph.append("captured")
        return np.zeros((1, 64), np.float32)

    class Monitor:
        def __init__(self, pid):
            pass

        def __enter__(self):
            seen.append("timed")
            return self

        def __exit__(self, *_):
            pass

        def fields(self):
            return {}

    monkeypatch.setattr(measuring, "ResourceMonitor", Monitor)
    contestant = measuring.Contestant(
        subject="ours", version="", precision="fp32", embed_batch=embed
    )
    measuring._time_single(contestant, settings, make_rows(settings, QUERIES))
    assert set(seen[seen.index("timed") + 1 :]) == {"launch"}


@pytest.mark.filterwarnings("ignore")  # of the libraries that are measured
@pytest.mark.parametrize(
    "error", [StepUnavailable("no libcudnn.so.9"), onnxruntime.capi.onnxruntime_pybind11_state
              .NotImplemented("no libcudnn.so.9")], ids=["does not load", "has no kernel"]
)  # fmt: skip
def test_an_engine_that_cannot_run_costs_nobody_the_reference(settings, monkeypatch, error):
    from lasttoken_perf.gpu_suite.steps import parity

    def refuse(graph, provider):
        raise error

    monkeypatch.setattr(parity, "open_engine_on", refuse)
    report = parity.run(settings)
    assert set(load_reference(settings)) == set(CORPORA)
    discarded = [row for row in report.rows if "discarded" in row]
    assert discarded == [
        {"subject": "ONNX Runtime in fp32 (tiny)", "discarded": "no libcudnn.so.9"}
    ]
    compared = [row for row in report.rows if "discarded" not in row]
    assert [row["subject"] for row in compared] == ["torch, packed"] * len(CORPORA)


def test_wrong_vectors_fail_the_step_when_the_later_ones_have_their_reference(
    settings, monkeypatch
):
    from lasttoken_perf.gpu_suite.steps import parity

    def vectors_of(at_shape, direction):
        """Unit vectors of every compared row, all alike."""
        size = shape_config(at_shape.shape).hidden_size
        counts = {name: len(compared_rows(make_rows(at_shape, name)).rows) for name in CORPORA}
        return {name: np.eye(size, dtype=np.float32)[[direction] * counts[name]] for name in counts}

    class Wrong:
        attention_name = "wrong"

        def __init__(self, weights, **options):
            self._size = weights.config.hidden_size

        def encode(self, input_ids, row_lengths):
            return np.eye(self._size, dtype=np.float32)[[0] * len(row_lengths)]

    monkeypatch.setattr(parity, "PackedTorchModel", Wrong)
    monkeypatch.setattr(parity, "_reference", lambda at: (vectors_of(at, 1), "fp32"))
    monkeypatch.setattr(parity, "_CPU_EXPORTS", ())
    small = dataclasses.replace(settings, shape="small")  # the shape tiny comes before it
    with pytest.raises(WrongAnswer, match="torch, packed does not agree with transformers"):
        parity.run(small)
    kept = load_reference(small)
    for name, vectors in vectors_of(small, 1).items():
        np.testing.assert_array_equal(kept[name], vectors)


def test_the_server_finds_the_cuda_that_torch_came_with(settings, tmp_path, monkeypatch):
    for name in ("nvidia/cu13/lib/libcudart.so.13", "nvidia/cudnn/lib/libcudnn.so.9",
                 "nvidia/nvtx/lib/readme", "numpy/lib/other.so"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    folders = [tmp_path / "nvidia/cu13/lib", tmp_path / "nvidia/cudnn/lib"]
    assert served.torch_library_folders(tmp_path) == folders
    given = []

    class Server:
        def __init__(self, repository, **options):
            given.append(options["library_folders"])
            raise StepUnavailable("enough")

    monkeypatch.setattr(served, "LocalTriton", Server)
    monkeypatch.setattr(served, "RandomWeights", lambda *_, **__: None)
    monkeypatch.setattr(served, "export_repository", lambda *_: tmp_path)
    monkeypatch.setattr(served, "torch_library_folders", lambda: folders)
    for device in ("cuda", "cpu"):
        with pytest.raises(StepUnavailable, match="enough"):
            served.run(dataclasses.replace(settings, device=device))
    assert given == [folders, ()]
