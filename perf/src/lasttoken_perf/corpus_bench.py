"""`lasttoken embed-corpus` on many short texts, against the encoder's own bare rate.

The bare engine gets an even sample of the same texts as perfect batches, before and after the run,
so a drift of the machine shows. The run is the command in a process of its own, whose memory is
sampled.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.bench import check_vectors
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.errors import PeerFailed, WrongAnswer
from lasttoken_perf.peers.process import PeerProcess
from lasttoken_perf.results import make_result
from lasttoken_perf.serving import Serving

_SAMPLE_EVERY_S = 0.25
_SETTLED_AFTER = 0.2
"""Share of the run after which its memory should grow no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusBenchOptions:
    """What is measured.

    Attributes:
        texts: Number of texts, of 2 to 20 words.
        bare_texts: How many of them the bare engine gets, each time.
        seed: Decides the texts.
    """

    texts: int = 100_000
    bare_texts: int = 4_000
    seed: int = 7


def run_corpus_bench(
    serving: Serving, options: CorpusBenchOptions, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run it and return a result.

    Args:
        serving: A server of this machine, with its repository.
        options: What is measured.
        say: Told what is being done.

    Raises:
        WrongAnswer: Rows are missing, or their vectors are not those of the bare engine.
        PeerFailed: The command failed.
    """
    import pyarrow as pa  # of the extra `corpus`
    import pyarrow.parquet as pq

    assert serving.repository is not None
    texts = long_tailed_texts(options.texts, seed=options.seed, median_words=8, longest_words=20)
    sample = list(range(0, options.texts, max(1, options.texts // options.bare_texts)))
    name = serving.triton_name
    encoder = serving.repository / f"{name}{ENCODER}"
    parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
    with tempfile.TemporaryDirectory(prefix="lasttoken-corpus-bench.") as temporary:
        folder = Path(temporary)
        step = serving.repository / f"{name}{TOKENIZER}" / "1"
        settings = {
            "graph": str(encoder / "1" / "encoder.onnx"),
            "token_ids": _token_ids(step, [texts[row] for row in sample]),
            "batch_tokens": int(parameters["preferred_batch_tokens"].string_value),
            "intra_op_threads": int(parameters["intra_op_threads"].string_value),
        }
        pq.write_table(pa.table({"text": texts}), folder / "texts.parquet")
        with PeerProcess("lasttoken_perf.peers.bare_engine", settings, folder) as bare:
            say(f"the bare engine: {len(sample)} texts")
            before = bare.corpus()
            say(f"embed-corpus: {options.texts} texts")
            report, memory = _run_command(serving, folder)
            say(f"the bare engine: {len(sample)} texts")
            after = bare.corpus()
        table = pq.read_table(folder / "vectors", columns=["text", "embedding"])
        agreement = _check(table, texts, sample, before.vectors)
    rates = [len(sample) / run.seconds for run in (before, after)]
    rate = options.texts / report["seconds"]
    common = {"precision": serving.precision, "load": "corpus"}
    rows = [
        {**common, "subject": "bare engine", "repeat": repeat, "seconds": run.seconds,
         "texts_per_s": len(sample) / run.seconds}
        for repeat, run in enumerate((before, after), start=1)
    ]  # fmt: skip
    rows.append(
        {**common, "subject": "lasttoken embed-corpus", "repeat": 1, "service_class": "bulk",
         "seconds": report["seconds"], "texts_per_s": rate, "rss_bytes": max(memory)}
    )  # fmt: skip
    settled = memory[int(len(memory) * _SETTLED_AFTER) :]
    return make_result(
        kind="corpus",
        what="embed-corpus on short texts against the encoder's bare rate on a sample of them",
        rows=rows,
        model=serving.description,
        workload={
            "distribution": "short: log-normal around 8 words, 2 to 20",
            "seed": options.seed,
            "texts": options.texts,
            "tokens": report["tokens"],
        },
        settings={"bare_texts": len(sample), "parts": report["parts"]},
        checks={
            **agreement,
            "rate_over_bare": rate / statistics.mean(rates),
            "rss_bytes_after_a_fifth": settled[0],
            "rss_bytes_at_the_end": settled[-1],
            "rss_growth": settled[-1] / settled[0] - 1,
        },
        packages=("pyarrow",),
    )


def _token_ids(tokenizer_step: Path, texts: list[str]) -> list[list[int]]:
    """Token ids as the server makes them under its default prompt."""
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(tokenizer_step)
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    prompted = [
        apply_prompt(tokenizer.contract, text, prompt_name=None, instruction=None) for text in texts
    ]
    return [row.ids.tolist() for row in tokenizer.encode(prompted)]


def _run_command(serving: Serving, folder: Path) -> tuple[dict[str, Any], list[int]]:
    """Run embed-corpus; returns its report and its resident memory in bytes, sampled."""
    command = [
        sys.executable, "-m", "lasttoken.cli", "embed-corpus", str(folder / "texts.parquet"),
        "--output", str(folder / "vectors"), "--url", serving.url, "--model", serving.triton_name,
        "--json",
    ]  # fmt: skip
    with (
        (folder / "report.json").open("w+") as answer,
        subprocess.Popen(command, stdout=answer) as process,
    ):
        memory = []
        watched = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                try:
                    memory.append(watched.memory_info().rss)
                except psutil.NoSuchProcess:
                    break
                time.sleep(_SAMPLE_EVERY_S)
            process.wait()
        finally:
            process.kill()  # nothing where it has ended; an interrupted one writes in the folder
        if process.returncode != 0:
            raise PeerFailed(f"embed-corpus ended with exit code {process.returncode}")
        answer.seek(0)
        report: dict[str, Any] = json.load(answer)
    return report, [bytes_ for bytes_ in memory if bytes_]


def _check(table: Any, texts: list[str], sample: list[int], bare: np.ndarray) -> dict[str, float]:
    """Every text is there once, in order; all vectors are units; the sample's are the engine's."""
    if table["text"].to_pylist() != texts:
        raise WrongAnswer("the rows written are not the rows read")
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    vectors = flat.reshape(len(texts), -1)
    check_vectors(vectors, len(texts), bare.shape[1])
    lowest = float((vectors[sample] * bare).sum(axis=1).min())
    if not lowest >= 0.9999:
        raise WrongAnswer(f"vectors do not agree with the bare engine's: cosine {lowest}")
    return {
        "lowest_cosine_to_bare": lowest,
        "largest_difference_to_bare": float(np.abs(vectors[sample] - bare).max()),
    }


def summary_lines(result: dict[str, Any]) -> list[str]:
    """Lines of a Markdown table of the result."""
    checks = result["checks"]
    lines = ["| | texts/s | seconds |", "|---|---|---|"]
    lines += [
        f"| {row['subject']} | {row['texts_per_s']:.0f} | {row['seconds']:.1f} |"
        for row in result["rows"]
    ]
    megabytes = [checks[f"rss_bytes_{when}"] / 1e6 for when in ("after_a_fifth", "at_the_end")]
    return [
        *lines,
        "",
        f"rate over bare {checks['rate_over_bare']:.2f}; memory {megabytes[0]:.0f} MB after a "
        f"fifth of the run, {megabytes[1]:.0f} MB at its end",
    ]
