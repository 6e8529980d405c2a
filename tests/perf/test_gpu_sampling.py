"""Power and memory of GPUs where NVML's bindings are missing: the driver's command is asked."""

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
