"""Whether a contestant embeds what we embed: before it is timed, and each time that it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.bench import check_vectors
from lasttoken_perf.errors import PeerFailed, WrongAnswer
from lasttoken_perf.peers.contestants import BARE, SERVED, SINGLE, Contestant

LOWEST_COSINE = {"fp32": 0.9999, "bf16": 0.97, "q8_0": 0.97, "int8": 0.95}
"""Of a peer's vectors, by the precision of its weights, to those of our fp32 engine.

It finds another model, text or pooling, and is no gate of quality: int8 for vLLM is rounded to the
nearest, without calibration (0.9657 of SmolLM2-135M's longest texts).
"""
LOWEST_COSINE_SERVED = 0.9999
"""Of the served model's vectors to those of the engine on the same graph."""

Vectors = Mapping[str, NDArray[np.float32]]
"""``[texts, dim]`` and ``[queries, dim]`` float32, by `kind_of` the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What was found.

    Attributes:
        lowest: Lowest cosine to the fp32 engine's vectors, by contestant.
        served: Lowest cosine of the served model to the engine on the same graph.
        wrong: Why contestants must not be timed, by name.
    """

    lowest: dict[str, float] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def kind_of(load: str) -> str:
    """Return what a load embeds: the texts, or the short queries."""
    return "queries" if load == SINGLE else "texts"


def agree(
    contestants: Sequence[Contestant],
    dimensions: int,
    say: Callable[[str], None],
    *,
    fp32: Vectors | None = None,
    ours: Collection[str] = (BARE, SERVED),
) -> Agreement:
    """Run each load once, untimed, and compare the vectors with those of the fp32 engine.

    Args:
        contestants: The bare engine first.
        dimensions: Of a vector.
        say: Told the figures.
        fp32: Vectors of the engine on an fp32 graph of the same weights; None where the first
            contestant is that.
        ours: Names of contestants without which nothing is compared. They are held to each other;
            what their precision costs is for the export's gate.

    Raises:
        WrongAnswer: Vectors of one of ours are not those of the engine.
        PeerFailed: One of ours died.
    """
    found = Agreement()
    exact: dict[str, NDArray[np.float32]] = dict(fp32 or {})
    engine: dict[str, NDArray[np.float32]] = {}
    for contestant in contestants:
        name = contestant.name
        try:
            for load, run in contestant.loads.items():
                vectors, kind = run().vectors, kind_of(load)
                against = exact.setdefault(kind, vectors)
                check_vectors(vectors, len(against), dimensions)
                cosine = _lowest(vectors, against)
                found.lowest[name] = min(found.lowest.get(name, 1.0), cosine)
                if name in ours:
                    own = _lowest(vectors, engine.setdefault(kind, vectors))
                    found.served[name] = min(found.served.get(name, 1.0), own)
                    _hold(own, LOWEST_COSINE_SERVED, load)
                else:
                    _hold(cosine, LOWEST_COSINE.get(contestant.precision, 0.97), load)
        except (PeerFailed, WrongAnswer) as error:
            if name in ours:
                raise type(error)(f"{name}: {error}") from error
            found.wrong[name] = str(error)
        said = f"lowest cosine {found.lowest[name]:.6f}" if name in found.lowest else "no vectors"
        say(f"{name}: {said}")
    return found


def _lowest(vectors: NDArray[np.float32], against: NDArray[np.float32]) -> float:
    return float((vectors * against).sum(axis=1).min())


def _hold(cosine: float, bar: float, load: str) -> None:
    if not cosine >= bar:
        raise WrongAnswer(
            f"its vectors are others: cosine {cosine:.4f} on the {load} load, {bar} wanted"
        )
