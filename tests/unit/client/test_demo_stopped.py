"""A demonstration that is stopped from outside leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import argparse, sys, tempfile, time
from lasttoken.commands import demo

def run_demo(**options):
    with tempfile.TemporaryDirectory() as folder:
        print(folder, flush=True)
        time.sleep(60)

demo.run_demo = run_demo
arguments = argparse.Namespace(model=None, precision="fp32", cache=None, python=None)
sys.exit(demo.DEMO.run(arguments))
"""


def test_sigterm_clears_away_what_the_demonstration_made():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert not folder.exists()
    finally:
        process.kill()
        process.wait()


SERVING = """
import argparse, os, signal, sys, time
from lasttoken.commands import demo
from lasttoken.local import LocalTriton
from lasttoken.local import server as local
from lasttoken.local.program import ServerProgram

signal.signal(signal.SIGINT, signal.default_int_handler)
local.find_program = lambda *_: ServerProgram(
    path=sys.argv[1], arguments=(), environment=dict(os.environ), library_path=""
)
local.read_repository = lambda _: ()

def wait_until_ready(process, *_, **__):
    while "up" not in process.log():
        time.sleep(0.01)

local.wait_until_ready = wait_until_ready

def run_demo(**options):
    with LocalTriton(".", log_path=sys.argv[2]) as server:
        print(server.pid, flush=True)
        time.sleep(60)

demo.run_demo = run_demo
arguments = argparse.Namespace(model=None, precision="fp32", cache=None, python=None)
sys.exit(demo.DEMO.run(arguments))
"""


def test_a_second_sigterm_ends_the_demonstrations_server_at_once(tmp_path):
    program = tmp_path / "program"
    program.write_text(
        "#!/bin/sh\ntrap 'echo asked' TERM\necho up\nfor i in $(seq 600); do sleep 0.1; done\n"
    )
    program.chmod(0o755)
    log = tmp_path / "log"
    command = [sys.executable, "-c", SERVING, str(program), str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while "asked" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert not Path(f"/proc/{server}").exists()
    finally:
        process.kill()
        process.wait()
