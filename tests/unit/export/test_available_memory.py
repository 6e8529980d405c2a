"""Memory that may be had is no more than the container's limit leaves."""

from types import SimpleNamespace

import psutil
import pytest

from lasttoken_export.available_memory import available_memory_bytes
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module

FREE = 40_000
VERSION_2, VERSION_1 = "0::{}\n", "4:cpu,cpuacct:/\n7:memory:{}\n"


def group(limit, usage, files):
    inactive, active = files // 4, files - files // 4  # read twice or more: the larger part here
    statistics = f"anon 1\ninactive_file {inactive}\nactive_file {active}\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{usage}\n", "memory.stat": statistics}


def group_v1(limit, usage, files):
    inactive, active = files // 4, files - files // 4
    statistics = f"inactive_file 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n"
    return {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{usage}\n",
            "memory.stat": statistics}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "path", "groups", "wanted"),
    [
        pytest.param(VERSION_2, "/", {"": group(9000, 5000, 2000)}, 6000, id="in its container"),
        pytest.param(VERSION_2, "/", {"": group("max", 5000, 0)}, FREE, id="no limit"),
        pytest.param(VERSION_2, "/", {"": group(90_000, 1000, 0)}, FREE, id="a high limit"),
        pytest.param(VERSION_2, "/", {"": group(9000, 9500, 0)}, 0, id="over its limit"),
        pytest.param(
            VERSION_2, "/a/b", {"a/b": group("max", 10, 0), "a": group(9000, 500, 0)}, 8500,
            id="of the pod",
        ),
        pytest.param(
            VERSION_2, "/a", {"a": group(9000, 500, 0), "": group(7000, 600, 0)}, 6400,
            id="the least of all",
        ),
        pytest.param(VERSION_2, "/gone", {}, FREE, id="another mount's"),
        pytest.param(
            VERSION_1, "/kubepods/x", {"memory": group_v1(9000, 5000, 2000)}, 6000, id="version 1"
        ),
        pytest.param(
            VERSION_1, "/", {"memory": group_v1(2**63 - 4096, 5000, 0)}, FREE,
            id="version 1, no limit",
        ),
    ],
)  # fmt: skip
def test_the_least_of_what_the_machine_and_its_groups_leave(
    line, path, groups, wanted, tmp_path, monkeypatch
):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))
    process = tmp_path / "process"
    process.write_text(line.format(path))
    for name, files in groups.items():
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
    assert available_memory_bytes(tmp_path / "cgroup", process) == wanted


def test_a_system_without_control_groups_has_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))
    assert available_memory_bytes(tmp_path, tmp_path / "none") == FREE


def test_the_server_reads_what_linux_says():
    """It has no psutil; both look within moments of each other."""
    own = server_module(ENCODER, "available_memory").available_memory_bytes()
    assert own == pytest.approx(available_memory_bytes(), rel=0.2)
