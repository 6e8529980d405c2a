"""Peers: who is compared with whom, what is refused, what a server peer is sent."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from lasttoken_perf.commands.peers import peers_table
from lasttoken_perf.errors import PeerFailed, ToolUnavailable, WrongAnswer
from lasttoken_perf.peers import contestants, environment
from lasttoken_perf.peers.agreement import Agreement, agree
from lasttoken_perf.peers.contestants import (
    BARE,
    CORPUS,
    LIBRARY,
    MIXED,
    PEERS,
    SERVED,
    SERVER,
    SINGLE,
    Contestant,
    Material,
)
from lasttoken_perf.peers.http_server import HttpPeer
from lasttoken_perf.peers.other_load import OtherLoad
from lasttoken_perf.peers.process import PeerRun
from lasttoken_perf.peers.ratios import ratios
from lasttoken_perf.peers.server_commands import SERVERS
from lasttoken_perf.peers.timing import Timing, Work, measure
from lasttoken_perf.results import make_result, summarise
from lasttoken_perf.served import embed_one_by_one, embed_singly
from unit.client.fake_triton import MODEL, FakeTriton, vector_of

SERVER_PROGRAM = """
import base64, json, struct, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

fate = sys.argv[2]
if fate == "dies": sys.exit("no such model")

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = set()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/forget": self.seen.clear()
        rows = []
        if self.seen & set(body.get("input", [])) and fate == "keeps":
            self.send_error(409, "has had it"); return
        self.seen.update(body.get("input", []))
        for index, text in enumerate(body.get("input", [])):
            vector = [float(len(text)), 1.0]
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
            rows.append({"index": index, "embedding": vector})
        rows.reverse()
        if fate == "loses one" and body["input"] != ["warm"]: rows.pop()
        answer = json.dumps({"data": rows, "success": fate != "busy"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments): pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def http_peer(tmp_path):
    def start(fate="lives", fields=None, forget_path=None):
        return HttpPeer(
            "a server",
            [sys.executable, "-c", SERVER_PROGRAM, "{port}", fate],
            variables={},
            folder=tmp_path,
            path="/v1/embeddings",
            model="model",
            version="1",
            fields=fields or {},
            forget_path=forget_path,
        )

    return start


@pytest.mark.parametrize("fields", [{"encoding_format": "base64"}, {}])
def test_a_server_gets_every_text_once_and_vectors_come_back_in_order(http_peer, fields):
    texts = ["x" * length for length in (5, 1, 9, 2, 7)]
    with http_peer(fields=fields) as peer:
        single = peer.one_by_one(texts, clients=3)
        lists = peer.lists(texts, size=2, clients=2)
    expected = np.array([[len(text), 1] for text in texts], np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(single.vectors, expected)
    assert np.allclose(lists.vectors, expected)
    assert (len(single.latency_ms), len(lists.latency_ms)) == (5, 3)


def wait_until_stopped(process):
    deadline_s = time.monotonic() + 10
    while process.status() != psutil.STATUS_STOPPED:  # the kernel stops it when it next runs
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_server_is_stopped_between_its_turns(http_peer):
    with http_peer() as peer:
        process = psutil.Process(peer.pid)
        wait_until_stopped(process)
        for _ in range(2):
            assert len(peer.one_by_one(["a", "b"], clients=2).vectors) == 2
            wait_until_stopped(process)
    assert not process.is_running()


def test_a_server_forgets_before_every_run_what_it_has_embedded(http_peer):
    texts = ["a", "b", "c"]
    with http_peer("keeps", forget_path="/forget") as peer:
        for _ in range(2):
            assert len(peer.one_by_one(texts, clients=2).vectors) == 3
        assert len(peer.lists(texts, size=2, clients=1).vectors) == 3
    with http_peer("keeps") as peer, pytest.raises(PeerFailed, match="409"):
        peer.one_by_one(["warm"], clients=1)
    with (
        http_peer("busy", forget_path="/forget") as peer,
        pytest.raises(PeerFailed, match="keeps what it was told to forget"),
    ):
        peer.one_by_one(texts, clients=1)


def test_a_server_that_dies_or_loses_a_text_is_told(http_peer):
    with pytest.raises(PeerFailed, match=r"(?s)ended with 1.*no such model"):
        http_peer("dies")
    with http_peer("loses one") as peer, pytest.raises(PeerFailed, match="1 vectors for 2 texts"):
        peer.lists(["a", "b"], size=2, clients=1)


def contestant(name, vectors, kind=LIBRARY, precision="fp32", loads=(CORPUS,)):
    run = PeerRun(seconds=1.0, vectors=np.array(vectors, np.float32))
    return Contestant(
        name=name, kind=kind, precision=precision, version="1", pid=None,
        loads={load: lambda: run for load in loads},
    )  # fmt: skip


def test_a_fast_wrong_answer_is_no_peer():
    right = [[0.6, 0.8], [1.0, 0.0]]
    near = [[0.62, 0.7846], [1.0, 0.0]]
    found = Agreement(dimensions=2)
    agree(
        [
            contestant("ours", right, loads=(CORPUS, MIXED)),
            contestant("same", right),
            contestant("swapped", right[::-1]),
            contestant("half", right[:1]),
            contestant("near in fp32", near),
            contestant("near in 8 bits", near, precision="q8_0"),
        ],
        found,
        lambda words: None,
    )
    assert found.wrong.keys() == {"swapped", "half", "near in fp32"}
    assert "vectors are others: cosine 0.6" in found.wrong["swapped"]
    assert "(1, 2), not (2, 2)" in found.wrong["half"]
    assert found.lowest["same"] == pytest.approx(1.0)


def failing(name, error, loads=(CORPUS,)):
    def run():
        raise error

    return Contestant(name=name, kind=LIBRARY, precision="fp32", version="1", pid=None,
                      loads=dict.fromkeys(loads, run))  # fmt: skip


RIGHT = [[0.6, 0.8], [1.0, 0.0]]
LONG = [[1.2, 1.6], [2.0, 0.0]]
NONE = [[np.nan, 0.8], [1.0, 0.0]]


def test_a_peer_that_dies_or_gives_no_unit_vectors_is_left_out_before_the_clock_runs():
    peers = [
        contestant("ours", RIGHT),
        failing("dead", PeerFailed("ended with -9:\nKilled")),
        contestant("long", LONG),
        contestant("none", NONE),
        contestant("same", RIGHT),
    ]
    found = Agreement(dimensions=2)
    agree(peers, found, lambda words: None)
    assert found.wrong.keys() == {"dead", "long", "none"}
    assert "ended with -9" in found.wrong["dead"]
    assert "norm is off 1" in found.wrong["long"]
    assert found.lowest.keys() == {"ours", "same"}
    json.dumps(found.lowest, allow_nan=False)


def test_peers_are_held_to_fp32_whatever_the_precision_of_ours():
    rounded = [[0.63, 0.7766], [0.9998, 0.02]]  # our vectors in int8, near those in fp32
    found = Agreement(dimensions=2, exact={"texts": np.array(RIGHT, np.float32)})
    ours = [contestant(BARE, rounded, precision="int8")]
    ours.append(contestant(SERVED, rounded, precision="int8"))
    peers = [contestant("exact", RIGHT), contestant("as ours", rounded)]
    agree([*ours, *peers], found, lambda words: None)
    assert found.wrong.keys() == {"as ours"}
    assert found.lowest[BARE] < 0.9999
    assert found.served == {BARE: pytest.approx(1), SERVED: pytest.approx(1)}


def test_nothing_is_compared_with_a_server_that_gives_other_vectors_than_its_engine():
    with pytest.raises(WrongAnswer, match=r"lasttoken server: its vectors are others"):
        agree([contestant(BARE, RIGHT), contestant(SERVED, RIGHT[::-1])], Agreement(dimensions=2),
              print)  # fmt: skip
    with pytest.raises(PeerFailed, match="bare engine: gone"):
        agree([failing(BARE, PeerFailed("gone"))], Agreement(dimensions=2), print)


WORK = Work(texts=2, tokens=20, queries=2, query_tokens=4, clients=3,
            distribution="passages")  # fmt: skip


def after(runs, then):
    """A contestant's load that works so often."""
    left = iter(range(runs))

    def run():
        if next(left, None) is None:
            raise then
        return PeerRun(seconds=0.5, vectors=np.array(RIGHT, np.float32), latency_ms=(1.0, 3.0))

    return run


def timed(name, run, load=MIXED):
    return Contestant(name=name, kind=SERVER, precision="fp32", version="1", pid=None,
                      loads={load: run})  # fmt: skip


def test_a_peer_that_dies_while_it_is_timed_costs_its_own_rows_alone():
    dead = PeerFailed("peer: ended with -9:\nKilled")
    timing = Timing()
    contestants = [timed(SERVED, after(9, dead)), timed("peer", after(1, dead)),
                   timed("other", after(9, dead))]  # fmt: skip
    agreement = Agreement(dimensions=2)
    measure(contestants, WORK, timing, agreement, repeats=3, say=lambda words: None)
    assert [row["subject"] for row in timing.rows].count("peer") == 1
    assert [row["repeat"] for row in timing.rows if row["subject"] == "other"] == [1, 2, 3]
    assert timing.failed == {
        "peer": "failed in repeat 2 of the mixed load: peer: ended with -9:\nKilled"
    }
    assert timing.rows[0]["tokens_per_s"] == 40
    assert (timing.rows[0]["requests"], timing.rows[0]["concurrency"]) == (2, 3)
    assert {row["distribution"] for row in timing.rows} == {"passages"}
    make_result(kind="peers", what="a test", rows=timing.rows)  # every field is documented
    with pytest.raises(PeerFailed):
        measure([timed(SERVED, after(0, dead))], WORK, Timing(), agreement, repeats=1, say=print)


def test_vectors_are_held_in_every_timed_run():
    """Right before the clock runs, and others behind it."""
    answers = iter([RIGHT, RIGHT, RIGHT[::-1]])

    def run():
        return PeerRun(seconds=0.5, vectors=np.array(next(answers), np.float32))

    agreement, timing = Agreement(dimensions=2), Timing()
    contestants = [contestant(BARE, RIGHT), timed("peer", run, load=CORPUS)]
    agree(contestants, agreement, print)
    measure(contestants, WORK, timing, agreement, repeats=3, say=print)
    assert [row["repeat"] for row in timing.rows if row["subject"] == "peer"] == [1]
    assert "repeat 2 of the corpus load: its vectors are others" in timing.failed["peer"]
    wrong = [contestant(SERVED, RIGHT[::-1])]
    with pytest.raises(WrongAnswer, match="its vectors are others"):
        measure(wrong, WORK, Timing(), agreement, repeats=1, say=print)


def test_ratios_of_an_interrupted_run_are_of_the_repeats_that_both_have():
    rows = [
        row(BARE, CORPUS, 1, 200.0, 1.0),
        row(SERVED, CORPUS, 1, 100.0, 1.0),
        row("peer", CORPUS, 1, 50.0, 1.0),
        row(BARE, CORPUS, 2, 300.0, 1.0),
    ]
    found = ratios(rows)
    assert found[f"{SERVED} / {BARE}, corpus"] == {"min": 0.5, "median": 0.5, "max": 0.5}
    assert found[f"{BARE} / peer, corpus"]["max"] == 4


def test_what_others_take_of_the_cores_is_measured_and_told():
    spin = "import time\nend = time.perf_counter() + 20\nwhile time.perf_counter() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        with OtherLoad() as load:
            ours = time.process_time()
            while time.process_time() - ours < 1.1:  # our own work is no one else's
                pass
        other.kill()
    assert 0.1 < load.cores(0) < os.cpu_count()
    assert load.cores(0.05) == pytest.approx(load.cores(0) - 0.05)
    assert load.cores(99) == 0
    result = {"summary": [], "ratios": {}, "unavailable": {}, "rows": []}
    assert "Other programs" not in "\n".join(peers_table(result))
    result["rows"] = [{"other_cpu_cores": 0.01}, {"other_cpu_cores": 1.26}, {}]
    assert "Other programs took up to 1.3 of the cores" in "\n".join(peers_table(result))


def test_a_timed_row_says_what_others_took_unless_it_was_too_short_to_tell():
    timing, waits = Timing(), iter([1.1, 0.0])

    def run():
        time.sleep(next(waits))
        return PeerRun(seconds=0.5, vectors=np.array(RIGHT, np.float32))

    peer = replace(timed(SERVED, run), pid=os.getpid())
    agreement = Agreement(dimensions=2)
    measure([peer], WORK, timing, agreement, repeats=2, say=lambda words: None)
    assert timing.rows[0]["other_cpu_cores"] >= 0
    assert "cpu_cores" in timing.rows[1]
    assert "other_cpu_cores" not in timing.rows[1]
    make_result(kind="peers", what="a test", rows=timing.rows)


def test_a_library_is_told_all_that_its_module_asks_for(tmp_path, monkeypatch):
    """`torch_models` loads three libraries, in the precision and on the cores that it is told."""
    told = {}

    class Process:
        version, pid, corpus, single = "1", None, None, None

        def __init__(self, module, settings, folder, **_):
            told.update(settings, module=module)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(contestants, "PeerProcess", Process)
    [peer] = [peer for peer in PEERS if peer.name == "OpenVINO bf16"]
    with ExitStack() as stack:
        started = peer.start(peer, material(tmp_path), tmp_path / "python", {}, stack)
    assert (started.name, started.precision, started.kind) == ("OpenVINO bf16", "bf16", LIBRARY)
    wanted = {"library": "openvino", "precision": "bf16", "threads": material(tmp_path).threads}
    assert wanted.items() <= told.items()
    assert told["module"] == "lasttoken_perf.peers.torch_models"


@pytest.mark.parametrize("pooling", ["last_token", "cls", "mean"])
def test_how_the_others_are_started_is_for_the_models_pooling(pooling):
    how = contestants.not_started(pooling)
    assert f"--pooling {pooling.replace('_', '-')} " in how["text-embeddings-inference"]
    assert ":cpu-" in how["text-embeddings-inference"]
    assert "--runner pooling" in how["vLLM on a GPU"]


def row(subject, load, repeat, tokens_per_s, p50_ms):
    return {"subject": subject, "version": "1", "precision": "fp32", "load": load, "repeat": repeat,
            "tokens_per_s": tokens_per_s, "p50_ms": p50_ms}  # fmt: skip


def test_ratios_are_taken_repeat_by_repeat():
    rows = [
        row(SERVED, CORPUS, 1, 100.0, 1.0),
        row(SERVED, CORPUS, 2, 300.0, 1.0),
        row(BARE, CORPUS, 1, 125.0, 1.0),
        row(BARE, CORPUS, 2, 300.0, 1.0),
        row("peer", CORPUS, 1, 50.0, 1.0),
        row("peer", CORPUS, 2, 50.0, 1.0),
        row(SERVED, SINGLE, 1, 1.0, 20.0),
        row(BARE, SINGLE, 1, 1.0, 18.5),
        row("peer", SINGLE, 1, 1.0, 50.0),
    ]
    found = ratios(rows)
    assert found[f"{SERVED} / peer, corpus"] == {"min": 2.0, "median": 4.0, "max": 6.0}
    assert found[f"{SERVED} / {BARE}, corpus"]["min"] == 0.8
    assert found[f"{SERVED} / peer, single"]["median"] == 2.5  # their latency over ours
    assert found[f"{SERVED} - {BARE}, single, ms"]["median"] == 1.5
    assert f"{BARE} / {SERVED}, corpus" not in found
    result = {"summary": summarise(rows), "ratios": found, "unavailable": {"vLLM": "no GPU\nx"}}
    table = "\n".join(peers_table(result))
    assert f"| {SERVED} / peer, corpus | 4.00 | 2.00 | 6.00 |" in table
    assert "| vLLM | no GPU |" in table


def test_every_peer_is_pinned_and_can_be_found():
    for peer in contestants.PEERS:
        files = environment._requirement_files(peer.environment)
        lines = [line for file in files for line in file.read_text().splitlines()]
        lines = [line for line in lines if not line.startswith("#")]
        assert len(lines) > 10
        assert all(line.count("==") == 1 for line in lines), peer.name
    for server in SERVERS:
        assert re.fullmatch(r"[0-9.]+", environment.pinned_version(server))
    assert SERVER == "server"


def test_what_asks_for_too_much_is_installed_last_and_alone(tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environment.subprocess, "run", run)
    environment.install_peer("vllm", tmp_path, lambda words: None)
    installs = [command for command in commands if "install" in command]
    assert [Path(command[-1]).name for command in installs] == ["vllm.txt", "vllm.no-deps.txt"]
    assert ["--no-deps" in command for command in installs] == [False, True]
    assert "vllm" not in (environment._REQUIREMENTS / "vllm.txt").read_text().split("\n", 1)[1]


def material(folder):
    return Material(
        texts=[], queries=[], hf_folder=folder / "huggingface", gguf=None, pooling="last_token",
        max_length=2048, threads=2, clients=1, folder=folder, cache_folder=folder / "cache",
    )  # fmt: skip


SERVER_PEERS = [p for p in contestants.PEERS if p.start is contestants._start_server]


@pytest.mark.parametrize("peer", SERVER_PEERS, ids=lambda peer: peer.name)
def test_servers_listen_on_loopback_alone_and_take_the_models_weights(peer, tmp_path):
    how = SERVERS[peer.environment](peer, material(tmp_path), Path("/environment/bin/python"))
    assert how.command[how.command.index("--host") + 1] == "127.0.0.1"
    assert how.command[how.command.index("--port") + 1] == "{port}"
    weights = [part for part in how.command if part.startswith(str(tmp_path))]
    name = f"{peer.precision}.gguf" if peer.environment == "llama_cpp" else "huggingface"
    if peer.name == "vLLM server int8":
        name = "huggingface-int8"
    assert [Path(part).name for part in weights] == [name]
    if "--dtype" in how.command:
        floats = {"fp32": "float32", "bf16": "bfloat16", "int8": "bfloat16"}[peer.precision]
        assert how.command[how.command.index("--dtype") + 1] == floats


def test_vllm_takes_all_cores_and_forgets(tmp_path):
    [peer] = [peer for peer in contestants.PEERS if peer.name == "vLLM server fp32"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    how = SERVERS["vllm"](peer, material(tmp_path), tmp_path / "bin" / "python")
    cores = {int(core) for core in how.variables["VLLM_CPU_OMP_THREADS_BIND"].split(",")}
    assert cores == os.sched_getaffinity(0)
    assert how.variables["LD_PRELOAD"] == str(tmp_path / "lib" / "libiomp5.so")
    assert how.forget_path == "/reset_prefix_cache"
    assert how.variables["VLLM_SERVER_DEV_MODE"] == "1"  # without it there is no such route
    assert how.fields["truncate_prompt_tokens"] == -1
    assert how.command[how.command.index("--max-model-len") + 1] == "2048"


def test_a_peer_that_cannot_be_installed_says_why(tmp_path, monkeypatch):
    def offline(command, **options):
        if "pip" in command:
            return subprocess.CompletedProcess(command, 1, "", "no route to the index")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environment.subprocess, "run", offline)
    with pytest.raises(ToolUnavailable, match=r"(?s)optimum .*online.*no route to the index"):
        environment.install_peer("optimum", tmp_path, lambda words: None)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_peers_process_sees_our_modules_and_none_of_our_packages(tmp_path):
    modules = environment.stage_package(tmp_path)
    names = {path.name for path in modules.rglob("*.py")}
    assert {"process.py", "errors.py", "torch_models.py"} <= names
    variables = environment.peer_variables(modules)
    assert variables["PYTHONPATH"] == str(modules)
    assert "site-packages" not in variables["PYTHONPATH"]


def test_base64_is_little_endian_float32():
    from lasttoken_perf.peers.http_server import _vector

    text = base64.b64encode(np.array([1.5, -2], "<f4").tobytes()).decode()
    assert _vector(text).tolist() == [1.5, -2.0]
    assert _vector(json.loads("[1.5, -2]")).tolist() == [1.5, -2.0]


def test_our_own_requests_are_timed_one_by_one():
    texts = ["a", "bb", "ccc"]
    with FakeTriton().serve() as server:
        runs = (
            embed_singly(server.url, MODEL, texts),
            embed_one_by_one(server.url, MODEL, texts, clients=2),
        )
    for run in runs:
        assert run.vectors.tolist() == [vector_of(text).tolist() for text in texts]
        assert len(run.latency_ms) == 3
        assert all(0 < latency < 1000 * run.seconds + 1 for latency in run.latency_ms)


def test_a_server_of_llama_cpp_has_its_file_written_without_the_library(tmp_path):
    modules = tmp_path / "modules/lasttoken_perf/peers"
    modules.mkdir(parents=True)
    for folder in (modules, modules.parent):
        (folder / "__init__.py").touch()
    (modules / "llama_cpp.py").write_text(
        "def write_file(source, target, kind):\n"
        "    assert source != 'None', 'no weights'\n"
        "    open(target, 'x').write(f'{source} {kind}')\n"
    )
    peer = next(peer for peer in contestants.PEERS if peer.name == "llama.cpp server q8_0")
    material = SimpleNamespace(folder=tmp_path, gguf=tmp_path / "model.gguf")
    variables = {"PYTHONPATH": str(tmp_path / "modules")}

    def write():
        contestants.write_llama_cpp_file(peer, material, Path(sys.executable), variables)

    write()
    written = (tmp_path / "q8_0.gguf").read_text()
    assert written == f"{tmp_path / 'model.gguf'} MOSTLY_Q8_0"
    write()  # it is there: not written again
    (tmp_path / "q8_0.gguf").unlink()
    material.gguf = None
    with pytest.raises(PeerFailed, match=r"(?s)wrote no q8_0\.gguf.*no weights"):
        write()
