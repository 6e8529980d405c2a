"""A demonstration that is stopped from outside leaves nothing behind."""

import os
import signal
import subprocess
import sys
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
