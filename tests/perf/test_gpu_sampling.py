"""Power and memory of GPUs: what NVML leaves out, and the command where it is missing."""

import types

import pytest

from lasttoken_perf import gpu
from lasttoken_perf.nvidia_smi import parse_smi

ANSWER = """NVIDIA H100 80GB HBM3, 81559, 580.159.04, 700.00, 312.50, 40960, 87
NVIDIA L4, 23034, 580.159.04, 72.00, 30.25, 1024, 13
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A nvidia-smi on the PATH that gives a text, and no NVML."""

    def install(answer):
        (tmp_path / "answer").write_text(answer)
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(gpu, "pynvml", None)

    return install


def test_figures_of_all_gpus_are_put_together(smi):
    smi(ANSWER)
    sample = gpu.sample_gpus()
    assert sample.power_w == 342.75
    assert sample.memory_bytes == (40960 + 1024) * 2**20
    assert sample.utilisation == pytest.approx(0.5)
    described = gpu.describe_gpus()
    assert [d["name"] for d in described] == ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]
    assert described[0]["memory_bytes"] == 81559 * 2**20
    assert described[1]["power_limit_w"] == 72


def test_a_figure_that_is_left_out_is_not_zero(smi):
    smi(ANSWER.replace("30.25", "[N/A]"))
    assert parse_smi(ANSWER.replace("30.25", "[N/A]"))[1].power_w is None
    assert gpu.sample_gpus() is None


def test_a_machine_without_either_has_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "pynvml", None)
    assert gpu.sample_gpus() is None
    assert gpu.describe_gpus() == []


class NotGiven(Exception):
    """Stands for ``NVMLError_NotSupported``, and for the error without permission."""


def nvml(**changed):
    """Bindings of a driver with one GPU; what is changed to None is not given."""
    figures = {
        "nvmlDeviceGetName": "NVIDIA A100-SXM4-40GB",
        "nvmlSystemGetDriverVersion": "580.159.04",
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetMemoryInfo": types.SimpleNamespace(total=40 * 2**30, used=2**30),
        "nvmlDeviceGetEnforcedPowerLimit": 400_000,
        "nvmlDeviceGetPowerUsage": 125_500,
        "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=50),
        **changed,
    }

    def call(figure):
        def answer(*_):
            if figure is None:
                raise NotGiven
            return figure

        return answer

    calls = {name: call(figure) for name, figure in figures.items()}
    return types.SimpleNamespace(
        NVMLError=NotGiven, nvmlInit=lambda: None, nvmlShutdown=lambda: None, **calls
    )


def test_nvml_gives_the_figures_of_a_whole_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "pynvml", nvml())
    assert gpu.sample_gpus() == gpu.GpuSample(power_w=125.5, memory_bytes=2**30, utilisation=0.5)
    [described] = gpu.describe_gpus()
    assert (described["memory_bytes"], described["power_limit_w"]) == (40 * 2**30, 400)


@pytest.mark.parametrize(
    "missing",
    ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage"],
)
def test_a_gpu_in_parts_leaves_figures_out_and_ends_no_command(missing, monkeypatch):
    without = {missing: None, "nvmlDeviceGetEnforcedPowerLimit": None}
    monkeypatch.setattr(gpu, "pynvml", nvml(**without))
    assert gpu.sample_gpus() is None
    [described] = gpu.describe_gpus()
    assert described["name"] == "NVIDIA A100-SXM4-40GB"
    assert described["power_limit_w"] is None


def test_a_gpu_that_does_not_answer_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu, "pynvml", nvml(nvmlDeviceGetHandleByIndex=None))
    assert gpu.sample_gpus() is None
    assert gpu.describe_gpus() == []
