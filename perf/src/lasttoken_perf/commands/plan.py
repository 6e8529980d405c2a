"""``lasttoken-perf plan``: arguments, the table on stdout, and the answer as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lasttoken_perf.command import Command
from lasttoken_perf.errors import InvalidPlan
from lasttoken_perf.plan.calibration import load_calibration
from lasttoken_perf.plan.devices import load_devices
from lasttoken_perf.plan.model_account import ModelAccount, known_models, model_account
from lasttoken_perf.plan.planner import plan_all
from lasttoken_perf.plan.prices import load_prices
from lasttoken_perf.plan.published_claims import CLAIMED_MODEL, check_claims
from lasttoken_perf.plan.render import claims_table, plot, prepare_plot, table
from lasttoken_perf.plan.request import (
    HOST_TEXTS_PER_S,
    PUBLISHED_EFFICIENCY,
    PlanRequest,
    TextLengths,
    read_lengths,
)
from lasttoken_perf.plan.storage import STORAGES
from lasttoken_perf.results import make_result

_LONGEST_TOKENS = 2048
"""Longest text where nothing is said of it and the model takes as much."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=CLAIMED_MODEL,
        help=f"a folder with config.json, or one of {', '.join(known_models())} (%(default)s)",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=tuple(STORAGES),
        help="may be given several times (all)",
    )
    parser.add_argument(
        "--gpu",
        action="append",
        choices=[d.name for d in load_devices()],
        help="may be given several times (all)",
    )
    parser.add_argument(
        "--text-tokens",
        type=float,
        default=256,
        metavar="TOKENS",
        help="mean length of a text (%(default)s)",
    )
    parser.add_argument(
        "--longest",
        type=int,
        metavar="TOKENS",
        help=f"longest text ({_LONGEST_TOKENS}, or the model's maximum where that is less)",
    )
    parser.add_argument(
        "--lengths",
        type=Path,
        metavar="FILE",
        help="a length in tokens a line, in place of the two above",
    )
    parser.add_argument("--texts-per-s", type=float, default=100, help="load (%(default)s)")
    parser.add_argument(
        "--objective-ms",
        type=float,
        default=200,
        help="99th percentile of the time in the encoder of a text of mean length (%(default)s)",
    )
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=8192,
        metavar="TOKENS",
        help="token budget, lowered where it does not fit (%(default)s)",
    )
    parser.add_argument(
        "--efficiency",
        type=float,
        default=PUBLISHED_EFFICIENCY,
        help="share of the dense operations reached (%(default)s, published)",
    )
    parser.add_argument(
        "--runtime-gb", type=float, default=0.8, help="memory kept for the runtime (%(default)s)"
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.8,
        help="share of the capacity to plan with (%(default)s)",
    )
    parser.add_argument(
        "--host-texts-per-s", type=float, default=HOST_TEXTS_PER_S, metavar="TEXTS",
        help="what the server around the encoder carries (%(default)s, measured on two cores)",
    )  # fmt: skip
    parser.add_argument("--prices", type=Path, metavar="FILE", help="price file (the package's)")
    parser.add_argument(
        "--no-spot", action="store_true", help="without machines that can be taken back"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="measured points that override the roofline (the package's)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a .png, .svg or .pdf")
    parser.add_argument(
        "--claims",
        action="store_true",
        help="hold the published claims on SFR against the account instead",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.claims:
        if options.plot is not None:
            raise InvalidPlan("--claims has no plot: leave out --plot, or --claims")
        if options.model != CLAIMED_MODEL:
            raise InvalidPlan(f"--claims is about {CLAIMED_MODEL}: leave out --model, or --claims")
        checks = check_claims()
        _show(claims_table(checks))
        result = make_result(kind="plan", what="published claims against the account", rows=[])
        return {**result, "claims": [
            {"claim": c.claim, "account": c.account, "agrees": c.agrees, "why": c.why}
            for c in checks
        ]}  # fmt: skip
    model = model_account(options.model)
    request = PlanRequest(
        model=options.model,
        precisions=tuple(options.precision or STORAGES),
        lengths=_lengths(options, model),
        batch_tokens=options.batch_tokens,
        texts_per_s=options.texts_per_s,
        objective_s=options.objective_ms / 1e3,
        efficiency=options.efficiency,
        runtime_bytes=options.runtime_gb * 1e9,
        utilisation_ceiling=options.utilisation,
        host_texts_per_s=options.host_texts_per_s,
        allow_reclaimable=not options.no_spot,
    )
    devices = [d for d in load_devices() if not options.gpu or d.name in options.gpu]
    prices, points = load_prices(options.prices), load_calibration(options.calibration)
    if options.plot is not None:
        prepare_plot(options.plot)
    plans = plan_all(request, model, devices, prices, points)
    lengths = request.lengths
    title = (
        f"{request.model}: {request.texts_per_s:g} texts/s of {lengths.mean:g} tokens (longest "
        f"{lengths.longest}), p99 of a text of mean length within {options.objective_ms:g} ms"
    )
    _show([title, "", *table(plans)])
    if options.plot is not None:
        plot(plans, options.plot, title=title)
    # Nothing was measured, so there are no rows.
    result = make_result(kind="plan", what="capacity plan", rows=[], model={"name": request.model})
    return {
        **result,
        "parameters": model.parameters,
        "gflop_per_token": model.flops_per_token(lengths.attended) / 1e9,
        "lengths": {
            "mean": lengths.mean, "attended": lengths.attended, "longest": lengths.longest,
        },
        "texts_per_s": request.texts_per_s,
        "objective_ms": options.objective_ms,
        "efficiency": request.efficiency,
        "host_texts_per_s": request.host_texts_per_s,
        "utilisation_ceiling": request.utilisation_ceiling,
        "plans": [plan.to_json() for plan in plans],
    }  # fmt: skip


def _show(lines: Sequence[str]) -> None:
    print("\n".join(lines))


def _lengths(options: argparse.Namespace, model: ModelAccount) -> TextLengths:
    if options.lengths is not None:
        return read_lengths(options.lengths)
    mean, longest = options.text_tokens, options.longest
    if longest is None:
        longest = min(_LONGEST_TOKENS, model.max_length)
    if not 1 <= mean <= longest:
        raise InvalidPlan(f"--text-tokens is {mean:g}; it must be from 1 to --longest ({longest})")
    return TextLengths(mean=mean, attended=mean, longest=longest)


COMMAND = Command(add_arguments=_add_arguments, run=_run)
