"""The timed runs: every contestant and load in turn, repeat by repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lasttoken_perf.errors import PeerFailed, WrongAnswer
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.machine import device_name
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.peers.agreement import Agreement
from lasttoken_perf.peers.contestants import CORPUS, MIXED, SINGLE, Contestant
from lasttoken_perf.peers.other_load import OtherLoad
from lasttoken_perf.peers.process import PeerRun
from lasttoken_perf.results import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run embeds.

    Attributes:
        texts: How many of the corpus and mixed loads.
        tokens: Of these, together.
        queries: How many of the single load.
        query_tokens: Of these, together.
        clients: Requests at a time of the mixed load.
        distribution: Lengths of the texts.
    """

    texts: int
    tokens: int
    queries: int
    query_tokens: int
    clients: int
    distribution: str = "mixture"


@dataclass(slots=True, kw_only=True)
class Timing:
    """What was measured so far; it grows while `measure` runs.

    Attributes:
        rows: Of the result.
        failed: Why peers were left out from some repeat on, by name.
    """

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def measure(
    contestants: Sequence[Contestant],
    work: Work,
    timing: Timing,
    agreement: Agreement,
    *,
    repeats: int,
    say: Callable[[str], None],
) -> None:
    """Time everything; a peer that dies or answers wrongly is left out of what follows.

    Args:
        contestants: In the order of each repeat.
        work: What they embed.
        timing: Gets the rows, one after the other.
        agreement: What the vectors of every run are held to.
        repeats: Of everything.
        say: Told each figure.

    Raises:
        PeerFailed: The bare engine died.
        WrongAnswer: Our own vectors are wrong.
    """
    device = device_name()
    for repeat in range(1, repeats + 1):
        for load, contestant in _turns(contestants):
            name = contestant.name
            if name in timing.failed:
                continue
            try:
                with OtherLoad() as others, ResourceMonitor(contestant.pid) as monitor:
                    run = contestant.loads[load]()
                agreement.check(contestant, load, run.vectors)
            except (PeerFailed, WrongAnswer) as error:
                if name in agreement.ours:
                    raise
                timing.failed[name] = f"failed in repeat {repeat} of the {load} load: {error}"
                say(f"{name} {timing.failed[name]}")
                continue
            row = _row(contestant, load, repeat, run, work)
            used = monitor.fields()
            if "cpu_cores" in used and (taken := others.cores(used["cpu_cores"])) is not None:
                used["other_cpu_cores"] = taken
            timing.rows.append({**row, "device": device, **used})
            say(
                f"repeat {repeat}: {name}, {load}: {row['tokens_per_s']:.0f} tokens/s"
                + (f", p50 {row['p50_ms']:.1f} ms" if run.latency_ms else "")
            )


def _turns(contestants: Sequence[Contestant]) -> Iterator[tuple[str, Contestant]]:
    for load in (CORPUS, MIXED, SINGLE):
        for contestant in contestants:
            if load in contestant.loads:
                yield load, contestant


def _row(contestant: Contestant, load: str, repeat: int, run: PeerRun, work: Work) -> Row:
    single = load == SINGLE
    count, tokens = (work.queries, work.query_tokens) if single else (work.texts, work.tokens)
    return {
        "subject": contestant.name,
        "version": contestant.version,
        "precision": contestant.precision,
        "distribution": "queries" if single else work.distribution,
        "load": load,
        "repeat": repeat,
        "seconds": run.seconds,
        "texts_per_s": count / run.seconds,
        "tokens_per_s": tokens / run.seconds,
        **({"concurrency": work.clients} if load == MIXED else {}),
        **(_each(run) if run.latency_ms else {}),
    }


def _each(run: PeerRun) -> Row:
    """Fields of a load whose calls were timed one by one; of lists, one call carries several."""
    return {"requests": len(run.latency_ms), **latency_fields(np.array(run.latency_ms))}
