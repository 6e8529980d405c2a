"""Coverage-guided fuzzing of the readers by atheris: `make fuzz`.

    coverage_guided.py [--seconds N] [READER...]

Each reader gets a process of its own with good files as the corpus. A reader that raises anything
but its own errors, takes more than 10 s or more than 1 GiB ends its process, and the input is kept
in build/fuzz/READER/. Exit code 1 if one did.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "fuzz"
SOURCES = (
    "tests",
    "model_repository/sfr_embedding_mistral_encoder/1",
    "model_repository/sfr_embedding_mistral_tokenizer/1",
)
INSTRUMENTED = ["lasttoken", "lasttoken_export", "contract", "text_tokenizer", "safetensors"]
NOT_BYTES = ("modules", "catalogue-entry")
"""Their functions take JSON that a strategy made; hypothesis alone tries them."""


def main() -> int:
    """Fuzz readers one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER")
    parser.add_argument("--seconds", type=int, default=30, help="time for each reader (30)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.readers[0], options.inside, options.seconds)
        return 0
    names = options.readers or all_readers()
    inputs = crashes = 0
    for name in names:
        tried, crashed = fuzz_in_a_process(name, options.seconds)
        print(f"{name:22} {tried:>10,} inputs  {'CRASHED' if crashed else 'no crash'}", flush=True)
        inputs, crashes = inputs + tried, crashes + crashed
    print(f"{inputs:,} inputs, {crashes} readers crashed")
    return 1 if crashes else 0


def all_readers() -> list[str]:
    """Names of the readers that take bytes."""
    sys.path[:0] = [str(ROOT / source) for source in SOURCES]
    from fuzz.good_files import TINY
    from fuzz.readers import Readers

    with tempfile.TemporaryDirectory() as folder:
        return [n for n in Readers(Path(folder), TINY).by_name() if n not in NOT_BYTES]


def fuzz_in_a_process(name: str, seconds: int) -> tuple[int, bool]:
    """Inputs tried, and whether one of them ended the process."""
    folder = OUTPUT / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, name, "--seconds", str(seconds), "--inside", str(folder)]
    environment = {**os.environ, "PYTHONPATH": ":".join(str(ROOT / s) for s in SOURCES)}
    log = folder / "log.txt"
    with log.open("wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    text = log.read_text(errors="replace")
    counts = [int(n) for n in re.findall(r"^#(\d+)|^Done (\d+) runs", text, re.M) for n in n if n]
    if done.returncode or not counts:
        print(text[-4000:], file=sys.stderr)
    return max(counts, default=0), bool(done.returncode) or not counts


def fuzz(name: str, folder: Path, seconds: int) -> None:
    """Fuzz one reader in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from fuzz import good_files
        from fuzz.readers import Readers

    corpus, scratch = folder / "corpus", Path(tempfile.mkdtemp(prefix="lasttoken-fuzz-"))
    corpus.mkdir(exist_ok=True)
    for place, content in enumerate(seeds(name, scratch)):
        (corpus / f"good-{place}").write_bytes(content)
    (scratch / "reader").mkdir()
    read = Readers(scratch / "reader", good_files.TINY).by_name()[name]
    options = [
        f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=3072", "-malloc_limit_mb=1024",
        "-max_len=400000", f"-artifact_prefix={folder}/", "-print_final_stats=0", str(corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], lambda data: read(bytes(data)) and None)
    atheris.Fuzz()


def seeds(name: str, scratch: Path) -> list[bytes]:
    """Good files for a reader to begin with."""
    from fuzz import good_files as good

    folder = scratch / "seeds"
    folder.mkdir()
    if name == "gguf":
        return good.gguf_files(folder)
    if name == "safetensors":
        return [good.safetensors_file(folder)]
    if name == "sentencepiece":
        return [good.sentencepiece_file()]
    if name == "config-pbtxt":
        return [good.config_pbtxt()]
    return [json.dumps(good.json_values()[name]).encode()]


if __name__ == "__main__":
    sys.exit(main())
