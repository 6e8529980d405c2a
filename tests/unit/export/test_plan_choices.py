"""What is decided about a plan before TensorRT is asked to build it."""

import ctypes
import dataclasses
import subprocess
import sys
import types

import psutil
import pytest

from lasttoken_export.errors import (
    InvalidOption,
    MissingLibrary,
    NotEnoughMemory,
    UnsupportedDevice,
)
from lasttoken_export.tensorrt import plan_cache
from lasttoken_export.tensorrt import target as targets
from lasttoken_export.tensorrt.library import TensorRTLibrary, load_library
from lasttoken_export.tensorrt.plan_builder import PlanOptions, check_memory
from lasttoken_export.tensorrt.plan_cache import find_plan, plan_key, store_plan
from lasttoken_export.tensorrt.plan_choices import PlanChoices
from lasttoken_export.tensorrt.plan_step import prepare_plan
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import (
    TargetDevice,
    check_precision_on_target,
    find_target,
    parse_capability,
)

PROFILE = PlanProfile(max_batch_tokens=8192, max_rows=256, max_length=4096, usual_batch_tokens=8192)
CAPABILITIES = types.SimpleNamespace(SM75=0, SM80=0, SM86=0, SM89=0, SM120=0, NONE=0, CURRENT=0)
RTX = TensorRTLibrary(
    runtime="tensorrt-rtx",
    module=types.SimpleNamespace(ComputeCapability=CAPABILITIES),
    version="1.7",
)
ENTERPRISE = TensorRTLibrary(runtime="tensorrt", module=None, version="11.0")
L4 = TargetDevice(compute_capability=89, name="NVIDIA L4")


@pytest.fixture
def gpu(monkeypatch):
    """Sets the GPU that is found in this machine."""
    return lambda found: monkeypatch.setattr(targets, "gpu_in_this_machine", lambda: found)


@pytest.mark.parametrize(
    ("text", "capability"), [("8.9", 89), ("89", 89), ("sm89", 89), ("SM_120", 120), (" 12.0", 120)]
)
def test_a_compute_capability_is_read_in_the_forms_that_nvidia_writes(text, capability):
    assert parse_capability(text) == capability


@pytest.mark.parametrize("text", ["", "8", "8.9.1", "ada", "8,9", "-8.9"])
def test_another_text_is_refused_with_an_example(text):
    with pytest.raises(InvalidOption, match=r"write it as 8\.9"):
        parse_capability(text)


def test_rtx_builds_for_a_gpu_that_is_not_here(gpu):
    gpu(None)
    assert find_target(RTX, 120) == TargetDevice(compute_capability=120, name=None)


def test_rtx_takes_the_gpu_at_hand_and_ties_the_plan_to_its_capability_only(gpu):
    gpu(L4)
    assert find_target(RTX, None) == TargetDevice(compute_capability=89, name=None)
    assert find_target(RTX, 86) == TargetDevice(compute_capability=86, name=None)


def test_rtx_without_a_gpu_must_be_told(gpu):
    gpu(None)
    with pytest.raises(UnsupportedDevice, match=r"--compute-capability with one of 7\.5, 8\.0"):
        find_target(RTX, None)


def test_rtx_knows_no_hopper(gpu):
    gpu(TargetDevice(compute_capability=90, name="NVIDIA H100"))
    for wanted in (90, None):
        with pytest.raises(UnsupportedDevice, match=r"9\.0, only for .* 12\.0; .*tensorrt on a"):
            find_target(RTX, wanted)


def test_enterprise_tensorrt_builds_for_the_gpu_at_hand_only(gpu):
    gpu(L4)
    assert find_target(ENTERPRISE, None) == find_target(ENTERPRISE, 89) == L4
    with pytest.raises(UnsupportedDevice, match=r"NVIDIA L4 .* not for compute capability 9\.0"):
        find_target(ENTERPRISE, 90)
    gpu(None)
    with pytest.raises(UnsupportedDevice, match="export on the target"):
        find_target(ENTERPRISE, 89)


def test_this_machine_is_asked_for_its_gpu_without_failing():
    found = targets.gpu_in_this_machine()
    assert found is None or found.compute_capability >= 50


DRIVER = """
#include <string.h>
static int ready = 0;
int cuInit(unsigned flags) { ready = flags == 0; return CODE; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return ready ? 0 : 3; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, "NVIDIA H200 MIG 3g.71gb", size);
    return device != 7;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
    return device != 7;
}
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver of our own: tells how cuInit ends."""
    load = ctypes.CDLL

    def install(code):
        source, library = tmp_path / "cuda.c", tmp_path / f"libcuda-{code}.so"
        source.write_text(DRIVER.replace("CODE", str(code)))
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        asked = {"libcuda.so.1": str(library)}
        monkeypatch.setattr(ctypes, "CDLL", lambda name, *rest: load(asked.get(name, name), *rest))
        # The exporter's image has no such package: TensorRT needs none.
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)

    return install


def test_the_driver_alone_tells_the_gpu(driver):
    driver(0)
    assert targets.gpu_in_this_machine() == TargetDevice(
        compute_capability=90, name="NVIDIA H200 MIG 3g.71gb"
    )


def test_a_driver_without_a_gpu_is_no_gpu(driver):
    driver(100)  # CUDA_ERROR_NO_DEVICE
    assert targets.gpu_in_this_machine() is None


@pytest.mark.parametrize(
    ("precision", "capability", "fits"),
    [
        ("fp8", 86, False),
        ("fp8", 89, True),
        ("int4", 75, False),
        ("int4", 80, True),
        ("bf16", 75, False),
        ("bf16", 80, True),
        ("int8", 75, True),
        ("fp32", 75, True),
    ],
)
def test_a_precision_that_the_gpu_lacks_is_refused(precision, capability, fits):
    device = TargetDevice(compute_capability=capability, name=None)
    if fits:
        check_precision_on_target(precision, device)
        return
    with pytest.raises(UnsupportedDevice, match=f"{precision} needs a GPU of .*choose one of fp32"):
        check_precision_on_target(precision, device)


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingLibrary, match=r"extra-index-url https://pypi\.nvidia\.com"):
        load_library("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'lasttoken-export\[tensorrt-rtx\]'"):
        load_library("tensorrt-rtx")


def test_an_old_library_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="8.6"))
    with pytest.raises(MissingLibrary, match=r"tensorrt 8\.6 is too old: it has no IAttention"):
        load_library("tensorrt")


def test_too_little_memory_is_told_before_the_build(monkeypatch):
    memory = types.SimpleNamespace(available=40 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check_memory(13 * 10**9)
    with pytest.raises(NotEnoughMemory, match=r"takes about 43\.3 GB .* 40\.0 GB are available"):
        check_memory(14_200_000_000)


def test_the_profile_bounds_each_input_and_is_tuned_for_full_batches_of_passages():
    assert PROFILE.shapes() == {
        "input_ids": ((1,), (8192,), (8192,)),
        "row_lengths": ((1,), (32,), (256,)),
        "slots": ((1,), (256,), (4096,)),
    }
    sharing = dataclasses.replace(PROFILE, shares_prefixes=True)
    assert sharing.shapes() == {
        "input_ids": ((1,), (8192,), (8192,)),
        "row_lengths": ((1,), (32,), (256,)),
        "token_of_slot": ((1, 1), (32, 256), (256, 4096)),
        "slot_of_token": ((1,), (8192,), (8192,)),
    }
    short = dataclasses.replace(PROFILE, max_length=64, max_rows=8, max_batch_tokens=100)
    assert short.shapes() == {
        "input_ids": ((1,), (100,), (100,)),
        "row_lengths": ((1,), (1,), (8,)),
        "slots": ((1,), (64,), (64,)),
    }


@pytest.mark.parametrize(
    "choices",
    [
        {"compute_capability": "8.9"},
        {"weight_streaming": True},
        {"keep_graph": True},
    ],
)
def test_choices_about_plans_are_refused_where_there_is_none(choices):
    with pytest.raises(InvalidOption, match="--runtime onnxruntime has none"):
        prepare_plan("onnxruntime", "fp16", PlanChoices(**choices), profile=PROFILE)


def test_a_runtime_without_plans_needs_no_library():
    choices = PlanChoices()
    prepared = prepare_plan("onnxruntime", "fp16", choices, profile=PROFILE)
    assert prepared is None


def options(**changes):
    values = {"library": RTX, "target": TargetDevice(compute_capability=89, name=None)}
    return PlanOptions(**{**values, "precision": "fp16", "profile": PROFILE, **changes})


def test_the_key_of_a_plan_changes_with_all_that_decides_its_bytes(tmp_path, monkeypatch):
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(b"graph")
    data = tmp_path / "encoder.onnx.data"
    data.write_bytes(b"weights")
    keys = [
        plan_key(graph, options()),
        plan_key(graph, options(target=TargetDevice(compute_capability=86, name=None))),
        plan_key(graph, options(target=L4)),
        plan_key(graph, options(library=dataclasses.replace(RTX, version="1.8"))),
        plan_key(graph, options(library=dataclasses.replace(RTX, runtime="tensorrt"))),
        plan_key(graph, options(profile=dataclasses.replace(PROFILE, max_rows=8))),
        plan_key(graph, options(weight_streaming=True)),
        plan_key(graph, options(precision="fp32")),
    ]
    data.write_bytes(b"Weights")
    keys.append(plan_key(graph, options()))
    data.write_bytes(b"weights")
    graph.write_bytes(b"Graph")
    keys.append(plan_key(graph, options()))
    with monkeypatch.context() as changed:
        changed.setattr(plan_cache, "_BUILD", plan_cache._BUILD + 1)
        keys.append(plan_key(graph, options()))
    assert len(set(keys)) == len(keys)
    graph.write_bytes(b"graph")
    assert plan_key(graph, options(timing_cache=tmp_path / "timings")) == keys[0]


def test_a_stored_plan_is_found_again_and_a_torn_one_is_not(tmp_path):
    plan = tmp_path / "encoder.plan"
    plan.write_bytes(b"plan")
    cache = tmp_path / "cache"
    assert find_plan(cache, "key") is None
    store_plan(cache, "key", plan, build_seconds=1.5)
    found = find_plan(cache, "key")
    assert (found.path.read_bytes(), found.build_seconds) == (b"plan", 1.5)
    plan.unlink()  # the repository is removed: the cache keeps its own name of the file
    assert find_plan(cache, "key").path.read_bytes() == b"plan"
    found.path.write_bytes(b"pl")
    assert find_plan(cache, "key") is None
    (cache / "key.json").write_text("{")
    assert find_plan(cache, "key") is None
    assert sorted(path.name for path in cache.iterdir()) == ["key.json", "key.plan"]
