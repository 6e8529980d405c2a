"""Sessions on ONNX Runtime's CUDA provider, with a stand-in for the library."""

import types

import onnxruntime as ort
import pytest
from onnxruntime_session import open_session

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def opened(monkeypatch):
    """Sessions that were asked for; the provider is found once CUDA's libraries are there."""
    seen = types.SimpleNamespace(providers=[CPU], loads=True, sessions=[])

    def session(graph, options, **arguments):
        seen.sessions.append(arguments)
        return types.SimpleNamespace(get_providers=lambda: [CUDA, CPU] if seen.loads else [CPU])

    monkeypatch.setattr(ort, "preload_dlls", lambda: seen.providers.insert(0, CUDA))
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(seen.providers))
    monkeypatch.setattr(ort, "InferenceSession", session)
    return seen


def open_on(runtime, tmp_path):
    return open_session(tmp_path / "encoder.onnx", runtime=runtime, intra_op_threads=1)


def test_cudas_libraries_are_loaded_before_the_provider_is_looked_for(opened, tmp_path):
    assert open_on("onnxruntime-cuda", tmp_path).get_providers()[0] == CUDA


def test_float32_stays_float32(opened, tmp_path):
    open_on("onnxruntime-cuda", tmp_path)
    [arguments] = opened.sessions
    assert arguments["providers"] == [(CUDA, {"use_tf32": "0"})]


def test_a_session_never_goes_on_with_the_cpu_by_itself(opened, tmp_path):
    open_on("onnxruntime-cuda", tmp_path)
    assert opened.sessions[0]["enable_fallback"] == 0
    opened.loads = False
    with pytest.raises(RuntimeError, match="CUDAExecutionProvider does not load here"):
        open_on("onnxruntime-cuda", tmp_path)


def test_the_cpu_needs_none_of_cudas_libraries(opened, tmp_path):
    opened.loads = False
    open_on("onnxruntime-cpu", tmp_path)
    assert opened.providers == [CPU]


def test_a_runtime_without_the_provider_is_told(tmp_path):
    if CUDA in ort.get_available_providers():
        pytest.skip("ONNX Runtime with CUDA is installed")
    with pytest.raises(RuntimeError, match="install onnxruntime-gpu in the server's environment"):
        open_on("onnxruntime-cuda", tmp_path)
