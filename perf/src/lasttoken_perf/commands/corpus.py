"""``lasttoken-perf corpus``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_perf.command import Command, cache_folder, say, whole_number
from lasttoken_perf.serving import add_serving_arguments, open_serving


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_serving_arguments(parser, default_model="all-minilm-l6-v2")
    parser.add_argument(
        "--texts", type=whole_number(), default=100_000, help="number of texts (%(default)s)"
    )
    parser.add_argument(
        "--bare-texts",
        type=whole_number(),
        default=4_000,
        help="sample for the bare engine (%(default)s)",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    # pyarrow comes with the client's extra `corpus`, which no other command needs.
    from lasttoken_perf.corpus_bench import CorpusBenchOptions, run_corpus_bench, summary_lines

    if options.url is not None:
        raise SystemExit("error: the bare engine needs the repository; use --repository or --model")
    with open_serving(options, cache_folder=cache_folder(), say=say) as serving:
        result = run_corpus_bench(
            serving,
            CorpusBenchOptions(texts=options.texts, bare_texts=options.bare_texts),
            say=say,
        )
    print("\n".join(summary_lines(result)))
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)
