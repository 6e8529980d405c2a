"""The TensorRT engine's host logic, on a fake GPU that checks the order of every call."""

import inspect
import re
import sys
import types

import encoder_settings
import engine_choice
import numpy as np
import pytest
import tensorrt_engine
from cuda_device import Cuda
from device_errors import (
    DeviceFailed,
    MissingPackage,
    OutOfDeviceMemory,
    PlanRefused,
    ShapeBeyondProfile,
)
from engine import OverlappingEngine
from graph_cache import GraphCache
from tensorrt_engine import TensorRTEngine, open_tensorrt_engine
from tensorrt_plan import TensorRTPlan, import_package

from unit.encoder import fake_gpu
from unit.encoder.fake_gpu import Error, FakeCuda, FakeEngine, Misuse, fake_tensorrt
from unit.encoder.fakes import vector_of

KILOBYTE = 1024


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "_SCRATCH_STEP_BYTES", KILOBYTE)


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "encoder.plan"
    path.write_bytes(b"plan")
    return path


def make_engine(
    plan_file, *, rtx=False, memory_bytes=1 << 40, streamable=0, profile=fake_gpu.PROFILE
):
    cuda = FakeCuda(memory_bytes=memory_bytes)
    fake = FakeEngine(cuda, streamable, profile)
    plan = TensorRTPlan(plan_file, trt=fake_tensorrt(fake, rtx=rtx))
    return TensorRTEngine(plan, Cuda(cuda)), fake, cuda


def batch(*lengths, seed=0):
    random = np.random.default_rng((seed, *lengths))
    ids = random.integers(1, 1000, sum(lengths), dtype=np.int32)
    return ids, np.array(lengths, np.int32)


def expected(ids, lengths):
    return np.stack([vector_of(row) for row in np.split(ids, np.cumsum(lengths)[:-1])])


def check(engine, *lengths, seed=0):
    ids, row_lengths = batch(*lengths, seed=seed)
    np.testing.assert_array_equal(engine.encode(ids, row_lengths), expected(ids, row_lengths))


def test_batches_of_any_shape_give_their_rows_vectors(plan_file):
    engine, _, _ = make_engine(plan_file)
    assert isinstance(engine, OverlappingEngine)
    assert engine.dimensions == 4
    for seed, lengths in enumerate([(3,), (1, 2), (64, 64), (1,) * 16, (5, 40, 7), (64,)]):
        check(engine, *lengths, seed=seed)


def test_what_is_computed_is_what_the_packed_graph_computes(plan_file):
    engine, _, _ = make_engine(plan_file)
    work = engine.computed_work(np.zeros(8, np.int32), np.array([3, 5], np.int32))
    assert (work.tokens, work.attention_cells) == (8, 50)


def alike(*lengths):
    """Rows that begin with as many of the same five tokens as they have."""
    ids, row_lengths = batch(*lengths)
    rows = np.split(ids, np.cumsum(row_lengths)[:-1])
    for row in rows:
        row[:5] = range(1, 1 + min(5, len(row)))  # parts of ids
    return ids, row_lengths


def test_rows_that_begin_alike_share_tokens_where_the_plan_can(plan_file):
    engine, fake, cuda = make_engine(plan_file, profile=fake_gpu.SHARED_PROFILE)
    assert engine.shares_prefixes
    for lengths in [(3,), (9, 12, 5), (64, 64), (7,) * 16, (3, 40, 20)]:
        ids, row_lengths = alike(*lengths)
        vectors = engine.encode(ids, row_lengths)
        np.testing.assert_array_equal(vectors, expected(ids, row_lengths))
    cuda.log.clear()
    ids, row_lengths = alike(9, 12, 5)
    engine.encode(ids, row_lengths)
    tokens = 5 + 4 + 7
    assert fake.computed[-1] == (tokens, 3, 12)
    assert cuda.log == [
        ("in", 4 * tokens),
        ("in", 4 * 3),
        ("in", 4 * 3 * 12),
        ("in", 4 * tokens),
        ("enqueue", (tokens, 3, 12)),
        ("out", 4 * 3 * 4),
    ]
    work = engine.computed_work(ids, row_lengths)
    assert (work.tokens, work.shared_tokens) == (tokens, 10)
    plain, _, _ = make_engine(plan_file)
    assert not plain.shares_prefixes
    assert plain.computed_work(ids, row_lengths).tokens == 26


def test_a_batch_is_within_the_profile_by_the_tokens_that_are_computed(plan_file):
    engine, _, _ = make_engine(plan_file, profile=fake_gpu.SHARED_PROFILE)
    ids = np.tile(np.arange(1, 61, dtype=np.int32), 4)  # one text four times: 240 tokens, bound 128
    lengths = np.full(4, 60, np.int32)
    np.testing.assert_array_equal(engine.encode(ids, lengths), expected(ids, lengths))
    with pytest.raises(ShapeBeyondProfile, match="240 tokens in 4 rows"):
        make_engine(plan_file)[0].encode(ids, lengths)


def test_buffers_and_stream_are_made_once(plan_file):
    engine, _, cuda = make_engine(plan_file)
    made = [entry for entry in cuda.log if entry[0] == "malloc"]
    sizes = sorted(size for _, size in made)
    assert sizes == sorted([4 * 128, 4 * 16, 4 * 64, 4 * 16 * 4, 64 * KILOBYTE])
    pinned = dict(cuda.host)
    for seed in range(20):
        check(engine, 5, 6, seed=seed)
    assert [entry for entry in cuda.log if entry[0] in ("malloc", "free")] == made
    assert cuda.host == pinned


def test_who_waits_for_the_gpu_leaves_its_core_to_others(plan_file):
    _, _, cuda = make_engine(plan_file)
    flags = {entry[1] for entry in cuda.log if entry[0] == "event"}
    assert flags == {FakeCuda.cudaEventBlockingSync | FakeCuda.cudaEventDisableTiming}


def test_only_the_tokens_and_vectors_of_a_batch_are_copied(plan_file):
    engine, _, cuda = make_engine(plan_file)
    cuda.log.clear()
    check(engine, 5, 6)
    assert cuda.log == [
        ("in", 4 * 11),
        ("in", 4 * 2),
        ("enqueue", (11, 2, 6)),
        ("out", 4 * 2 * 4),
    ]


def test_a_second_batch_is_written_while_the_first_is_computed(plan_file):
    engine, fake, _ = make_engine(plan_file)
    first, second = batch(5, 6, seed=1), batch(7, seed=2)
    ids = first[0].copy()
    finish_first = engine.start(ids, first[1])
    ids[:] = 0  # the caller's again
    finish_second = engine.start(*second)
    assert fake.computed == []
    vectors = finish_first()
    assert fake.computed == [(11, 2, 6)]  # the second goes on while these are answered
    third = batch(9, 9, seed=3)
    finish_third = engine.start(*third)
    np.testing.assert_array_equal(finish_second(), expected(*second))
    np.testing.assert_array_equal(finish_third(), expected(*third))
    np.testing.assert_array_equal(vectors, expected(*first))  # a copy: nobody wrote over it


def test_a_third_batch_in_flight_is_refused(plan_file):
    engine, _, _ = make_engine(plan_file)
    finishes = [engine.start(*batch(3, seed=seed)) for seed in range(2)]
    with pytest.raises(RuntimeError, match="two batches are in flight"):
        engine.start(*batch(3))
    for finish in finishes:
        finish()
    check(engine, 3)


def test_scratch_memory_grows_when_nothing_uses_it(plan_file):
    engine, _, cuda = make_engine(plan_file)
    finish = engine.start(*batch(5, 6))
    cuda.log.clear()
    ids, lengths = batch(*[8] * 8, 64)  # 9 rows of up to 64: 576 kB
    finish_large = engine.start(ids, lengths)
    assert ("free", 64 * KILOBYTE) in cuda.log
    assert ("malloc", 576 * KILOBYTE) in cuda.log
    finish()
    np.testing.assert_array_equal(finish_large(), expected(ids, lengths))
    check(engine, 5, 6)
    assert [entry for entry in cuda.log if entry[0] == "malloc"] == [("malloc", 576 * KILOBYTE)]


def test_too_little_memory_for_a_batch_leaves_the_engine_usable(plan_file):
    engine, _, _ = make_engine(plan_file, memory_bytes=200 * KILOBYTE)
    with pytest.raises(
        OutOfDeviceMemory,
        match=r"activations of this batch need .* GB of GPU memory.*preferred_batch_tokens",
    ):
        engine.encode(*batch(*[8] * 8, 64))
    for seed in range(3):
        check(engine, 5, 6, seed=seed)


def test_too_little_memory_at_the_start_is_told_then(plan_file):
    with pytest.raises(OutOfDeviceMemory, match="of GPU memory"):
        make_engine(plan_file, memory_bytes=10 * KILOBYTE)


@pytest.mark.parametrize("lengths", [(64, 64, 1), (1,) * 17, (65,)])
def test_a_batch_beyond_the_profile_is_refused(plan_file, lengths):
    engine, fake, _ = make_engine(plan_file)
    with pytest.raises(ShapeBeyondProfile, match="built for 128, 16 and 64"):
        engine.encode(*batch(*lengths))
    assert fake.computed == []
    check(engine, 3)


def test_a_shape_that_comes_again_gets_a_graph(plan_file):
    engine, fake, cuda = make_engine(plan_file)
    kinds = []
    for seed in range(6):
        cuda.log.clear()
        check(engine, 7, seed=seed)
        kinds.append([kind for kind, _ in cuda.log if kind not in ("in", "out")])
    assert kinds == [
        ["enqueue"],  # twice by the common context
        ["enqueue"],
        ["enqueue"],  # by its own, which TensorRT sets up in the first run
        ["enqueue", "instantiate", "launch"],  # captured, which runs nothing
        ["launch"],
        ["launch"],
    ]
    assert len(fake.contexts) == 2
    assert fake.computed == [(7, 1, 7)] * 6


def test_graphs_and_other_batches_take_turns(plan_file):
    engine, _, cuda = make_engine(plan_file)
    for seed in range(8):
        check(engine, 7, seed=seed)
        check(engine, 3, 9, seed=seed)
        check(engine, 2 + seed, seed=seed)
    assert sum(kind == "launch" for kind, _ in cuda.log) >= 8


def test_graphs_are_given_up_when_scratch_memory_moves(plan_file):
    engine, fake, cuda = make_engine(plan_file)
    for seed in range(5):
        check(engine, 7, seed=seed)
    assert len(cuda.graphs) == 1
    check(engine, *[8] * 8, 64)
    assert cuda.graphs == {}
    cuda.log.clear()
    for seed in range(5):
        check(engine, 7, seed=seed)
    assert [kind for kind, _ in cuda.log].count("launch") == 2
    assert len(fake.contexts) == 3


def test_large_batches_get_no_graph(plan_file, monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "_GRAPH_TOKENS", 10)
    engine, fake, cuda = make_engine(plan_file)
    for seed in range(6):
        check(engine, 6, 6, seed=seed)
    assert (len(fake.contexts), cuda.graphs) == (1, {})


def test_the_least_recently_used_graph_is_given_up(plan_file, monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "_GRAPHS", 2)
    engine, _, cuda = make_engine(plan_file)
    for length in (3, 4, 5):
        for seed in range(5):
            check(engine, length, seed=seed)
        check(engine, 3)
    assert len(cuda.graphs) == 2
    cuda.log.clear()
    check(engine, 3)
    check(engine, 5)
    assert [kind for kind, _ in cuda.log].count("launch") == 2
    check(engine, 4)
    assert [kind for kind, _ in cuda.log].count("launch") == 2


def test_a_shape_that_cannot_be_captured_is_run_without(plan_file, caplog):
    engine, _, cuda = make_engine(plan_file)
    for seed in range(3):
        check(engine, 7, seed=seed)
    cuda.capture_error = Error.cudaErrorStreamCaptureUnsupported
    for seed in range(4):
        check(engine, 7, seed=seed)
    assert cuda.graphs == {}
    assert caplog.text.count("no CUDA graph for batches of (7, 1, 7)") == 1


def test_rtx_makes_its_graphs_itself(plan_file):
    engine, fake, cuda = make_engine(plan_file, rtx=True)
    assert fake.made_with.cuda_graph_strategy == "whole"
    for seed in range(6):
        check(engine, 7, seed=seed)
    assert (len(fake.contexts), cuda.graphs) == (1, {})


def test_weights_are_streamed_within_the_automatic_budget(plan_file):
    _, fake, _ = make_engine(plan_file, streamable=10**9)
    assert fake.weight_streaming_budget_v2 == 12345
    _, fake, _ = make_engine(plan_file)
    assert fake.weight_streaming_budget_v2 is None


def test_tensorrts_own_failure_is_told_and_the_buffers_stay_usable(plan_file):
    engine, fake, cuda = make_engine(plan_file)
    fake.fails = True
    for _ in range(3):
        with pytest.raises(DeviceFailed, match="running a batch failed"):
            engine.encode(*batch(3))
    fake.fails = False
    assert cuda.pending == []
    check(engine, 3)


def test_an_error_on_the_gpu_comes_with_the_vectors(plan_file):
    engine, _, cuda = make_engine(plan_file)
    finish = engine.start(*batch(3))
    cuda.work_error = Error.cudaErrorIllegalAddress
    with pytest.raises(DeviceFailed, match=r"cudaErrorIllegalAddress \(CUDA error 700\)"):
        finish()
    check(engine, 3)  # the set of host memory is free again


def test_a_copy_that_fails_frees_its_set(plan_file):
    engine, _, cuda = make_engine(plan_file)
    for _ in range(3):
        cuda.next_error = Error.cudaErrorIllegalAddress
        with pytest.raises(DeviceFailed, match="cudaMemcpyAsync"):
            engine.encode(*batch(3))
    check(engine, 3)


def test_a_plan_of_another_machine_is_refused(plan_file):
    with pytest.raises(PlanRefused, match="another version; a plan belongs to the library's"):
        TensorRTPlan(plan_file, trt=fake_tensorrt(None))


@pytest.mark.parametrize(
    "errors",
    [
        ("Error Code 1: Cuda Runtime (out of memory)",),
        ("Error Code 2: OutOfMemory (no further information)",),
        ("Error Code 1: Cuda Runtime (out of memory)", "Error Code 4: Internal Error (see above)"),
    ],
)
def test_a_plan_that_does_not_fit_is_no_plan_of_another_machine(plan_file, errors):
    with pytest.raises(OutOfDeviceMemory, match=r"does not hold its 0\.0 GB .*nvidia-smi") as told:
        TensorRTPlan(plan_file, trt=fake_tensorrt(None, errors=errors))
    assert errors[-1] in str(told.value)


def test_a_machine_without_a_gpu_is_told(plan_file):
    trt = fake_tensorrt(None)

    def refuse(logger):
        logger.log(fake_gpu.Logger.WARNING, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = refuse
    with pytest.raises(DeviceFailed, match="no usable GPU: CUDA initialization failure"):
        TensorRTPlan(plan_file, trt=trt)


def test_a_shape_with_no_room_for_its_graph_is_run_without(plan_file, caplog):
    engine, fake, cuda = make_engine(plan_file)
    fake.refuses_contexts = True
    for seed in range(6):
        check(engine, 7, seed=seed)
    assert cuda.graphs == {}
    assert caplog.text.count("no CUDA graph for batches of (7, 1, 7)") == 1


def test_a_plan_of_something_else_is_refused(plan_file):
    fake = FakeEngine(FakeCuda())
    fake.num_io_tensors = 3
    with pytest.raises(PlanRefused, match="not an encoder's plan"):
        TensorRTPlan(plan_file, trt=fake_tensorrt(fake))


def test_no_room_for_a_context_is_out_of_memory(plan_file):
    fake = FakeEngine(FakeCuda())
    fake.refuses_contexts = True
    with pytest.raises(OutOfDeviceMemory, match="no execution context"):
        TensorRTEngine(TensorRTPlan(plan_file, trt=fake_tensorrt(fake)), Cuda(fake.cuda))


def settings(**changes):
    values = {"max_batch_tokens": 128, "max_batch_rows": 16, "max_length": 64}
    return types.SimpleNamespace(runtime="tensorrt", **{**values, **changes})


@pytest.mark.parametrize(
    ("name", "value"), [("max_batch_tokens", 129), ("max_batch_rows", 17), ("max_length", 65)]
)
def test_settings_beyond_the_profile_are_refused_at_the_start(plan_file, monkeypatch, name, value):
    cuda = FakeCuda()
    modules = {"cuda": cuda, "tensorrt": fake_tensorrt(FakeEngine(cuda))}
    monkeypatch.setattr(tensorrt_engine, "import_package", modules.__getitem__)
    assert open_tensorrt_engine(plan_file.parent, settings()).dimensions == 4
    with pytest.raises(PlanRefused, match=f"{name} is {value}, but .* for at most {value - 1}"):
        open_tensorrt_engine(plan_file.parent, settings(**{name: value}))


def test_the_settings_choose_the_engine(monkeypatch, tmp_path):
    monkeypatch.setattr(engine_choice, "open_tensorrt_engine", lambda folder, s: (folder, s))
    for runtime in encoder_settings.PLAN_RUNTIMES:
        wanted = types.SimpleNamespace(runtime=runtime)
        assert engine_choice.open_engine(tmp_path, wanted) == (tmp_path, wanted)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackage, match=r"server's environment: pip install --extra-index"):
        import_package("tensorrt")


def test_the_fake_gpu_sees_misuse():
    """The checks that the tests above rely on can fail."""
    cuda = FakeCuda()
    _, address = cuda.cudaMalloc(64)
    cuda.cudaMemsetAsync(address, 0, 64, 1)
    with pytest.raises(Misuse, match="in flight"):
        cuda.cudaFree(address)
    cuda.cudaStreamSynchronize(1)
    cuda.cudaFree(address)
    with pytest.raises(Misuse, match="not allocated"):
        cuda.cudaMemsetAsync(address, 0, 64, 1)
    context = fake_gpu.FakeContext(FakeEngine(cuda))
    with pytest.raises(Misuse, match="shapes"):
        context.execute_async_v3(1)


def test_graphs_are_counted_by_shape():
    discarded = []
    cache = GraphCache(capacity=2, max_tokens=10, sightings=2, discard=discarded.append)
    small, large = (5, 1, 5), (11, 1, 11)
    assert [cache.is_due(small) for _ in range(3)] == [False, True, True]
    assert not any(cache.is_due(large) for _ in range(5))
    cache.refuse((3, 1, 3))
    assert not any(cache.is_due((3, 1, 3)) for _ in range(5))
    cache.add(small, "a")
    cache.add((6, 1, 6), "b")
    assert cache.find(small) == "a"
    cache.add((7, 1, 7), "c")
    assert (discarded, len(cache)) == (["b"], 2)
    cache.clear()
    assert (sorted(discarded), len(cache), cache.find(small)) == (["a", "b", "c"], 0, None)
    assert [cache.is_due((3, 1, 3)) for _ in range(2)] == [False, True]  # there may be room now


def test_the_fakes_have_no_call_that_the_real_libraries_lack():
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name, fake in inspect.getmembers(FakeCuda(), inspect.ismethod):
        if not name.startswith("cuda"):
            continue
        signature = re.match(rf"{name}\((.*)\)", inspect.getdoc(getattr(real, name)))
        parameters = [part for part in signature[1].split(",") if part.strip()]
        assert len(parameters) == len(inspect.signature(fake).parameters), name
    for name in (
        "cudaStreamNonBlocking",
        "cudaEventBlockingSync",
        "cudaEventDisableTiming",
        "cudaHostAllocDefault",
    ):
        assert getattr(FakeCuda, name) == getattr(real, name)
    for error in Error:
        assert int(getattr(real.cudaError_t, error.name)) == error
    assert int(real.cudaMemcpyKind.cudaMemcpyHostToDevice) == 1
    assert int(real.cudaMemcpyKind.cudaMemcpyDeviceToHost) == 2
    assert int(real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal) == 1

    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    ours = {"cuda", "computed", "contexts", "fails", "made_with", "runs", "refuses_contexts"}
    for fake, real_class in (
        (FakeEngine(FakeCuda()), trt.ICudaEngine),
        (fake_gpu.FakeContext(None), trt.IExecutionContext),
    ):
        names = {name for name in dir(fake) if not name.startswith("_")}
        assert names - ours - {"scratch_bytes", "profile"} <= set(dir(real_class))
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None
    config = set(dir(trt.IRuntimeConfig))
    assert {"cuda_graph_strategy", "set_execution_context_allocation_strategy"} <= config


def test_a_real_plan_without_a_gpu_is_refused_in_tensorrts_words(plan_file):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    with pytest.raises(PlanRefused, match="cannot be loaded by tensorrt_rtx"):
        TensorRTPlan(plan_file, trt=trt)
