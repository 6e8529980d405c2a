"""``lasttoken-perf peers``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from lasttoken_perf.command import Command, add_model_argument, cache_folder, say, whole_number
from lasttoken_perf.corpus import DISTRIBUTIONS
from lasttoken_perf.peers.compare import CompareOptions, run_compare
from lasttoken_perf.peers.contestants import PEERS
from lasttoken_perf.peers.other_load import OTHER_CORES_BAR
from lasttoken_perf.peers.weights import RANDOM_MODEL
from lasttoken_perf.random_checkpoint import SFR_CONFIG
from lasttoken_perf.tables import in_short, markdown_table, median


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [peer.name for peer in PEERS]
    add_model_argument(parser)
    parser.add_argument(
        "--random-layers", type=whole_number(), metavar="N",
        help=f"random weights of so many layers in place of the model's, of --model {RANDOM_MODEL}",
    )  # fmt: skip
    parser.add_argument("--precision", default="fp32", help="of our export (%(default)s)")
    parser.add_argument(
        "--peers", nargs="*", choices=names, default=names, metavar="NAME",
        help=f"whom to compare with: {', '.join(map(repr, names))} (all)",
    )  # fmt: skip
    parser.add_argument(
        "--texts", type=whole_number(), default=96,
        help="of the corpus and the mixed load (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--distribution", choices=DISTRIBUTIONS, default="mixture",
        help="lengths of these texts (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--instruction", metavar="TEXT",
        help="written before every text and query, as queries of instructed models have it (none)",
    )  # fmt: skip
    parser.add_argument(
        "--queries", type=whole_number(), default=20, help="short ones (%(default)s)"
    )
    parser.add_argument(
        "--repeats", type=whole_number(), default=3, help="of everything (%(default)s)"
    )
    parser.add_argument(
        "--clients",
        type=whole_number(),
        default=64,
        help="requests at a time, mixed load (%(default)s)",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result = run_compare(
        CompareOptions(
            model=options.model,
            precision=options.precision,
            random_layers=options.random_layers,
            peers=options.peers,
            texts=options.texts,
            distribution=options.distribution,
            instruction=options.instruction,
            queries=options.queries,
            repeats=options.repeats,
            clients=options.clients,
            cache_folder=cache_folder(),
        ),
        say=say,
        output=options.output,
    )
    print("\n".join(peers_table(result)))
    return result


def peers_table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of speeds, of ratios, and of those that could not run."""
    yield from markdown_table(
        ["who", "weights", "load", "tokens/s (range)", "p50 ms", "p95 ms", "CPU cores", "memory"],
        (
            [
                f"{point['subject']} {point['version']}".strip(),
                point["precision"],
                point["load"],
                f"{point['tokens_per_s']['median']:.0f} "
                f"({point['tokens_per_s']['min']:.0f}-{point['tokens_per_s']['max']:.0f})",
                median(point, "p50_ms", ".1f"),
                median(point, "p95_ms", ".1f") if _says_p95(point) else "-",
                median(point, "cpu_cores", ".2f"),
                f"{point['rss_bytes']['median'] / 1e6:.0f} MB" if "rss_bytes" in point else "-",
            ]
            for point in result["summary"]
        ),
    )
    yield ""
    yield from markdown_table(
        ["ratio", "median", "min", "max"],
        (
            [name, *(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))]
            for name, ratio in result["ratios"].items()
        ),
    )
    yield ""
    yield from markdown_table(
        ["cannot run here", "why"],
        ([name, in_short(why)] for name, why in result["unavailable"].items()),
    )
    model = result.get("model", {})
    if model.get("random_layers"):
        yield ""
        yield _note_of_layers(model["random_layers"], whole=model["computes_last_layer_whole"])
    others = max((row.get("other_cpu_cores", 0.0) for row in result.get("rows", ())), default=0.0)
    if others > OTHER_CORES_BAR:
        yield ""
        yield (
            f"Other programs took up to {others:.1f} of the cores while this was timed: neither "
            "figures nor ratios hold; repeat it on a quiet machine."
        )


def _says_p95(point: dict[str, Any]) -> bool:
    """Whether a run had requests enough that one in twenty of them is one."""
    return "requests" in point and point["requests"]["min"] >= 20


def _note_of_layers(layers: int, *, whole: bool) -> str:
    """Say what a few layers make of the ratios.

    Args:
        layers: How many there are.
        whole: Whether ours computes the last one for all tokens, and not for the pooled ones alone.
    """
    most = SFR_CONFIG["num_hidden_layers"]
    note = f"Random weights of {layers} of the model's {most} layers."
    if whole:
        return note
    note += (
        " Behind the attention of the last one our graph computes the pooled tokens alone, which "
        "peers do not"
    )
    if layers == 1:
        return f"{note}: with one layer no ratio to a peer says anything of the model."
    too_high = (1 - 1 / most) / (1 - 1 / layers)
    return f"{note}: for all {most}, ratios to peers are to be divided by up to {too_high:.2f}."


COMMAND = Command(add_arguments=_add_arguments, run=_run)
