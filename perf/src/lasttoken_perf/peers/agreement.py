"""Whether a contestant embeds what we embed: before it is timed, and each time that it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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

Vectors = dict[str, NDArray[np.float32]]
"""``[texts, dim]`` and ``[queries, dim]`` float32, by `kind_of` the load."""


@dataclass(slots=True, kw_only=True)
class Agreement:
    """What every contestant's vectors are held to, and what was found.

    Attributes:
        dimensions: Of a vector.
        exact: Vectors of the engine on an fp32 graph of the same weights. The first of a kind that
            is checked stands in where there are none: that of the bare engine, itself in fp32.
        ours: Names of contestants without which nothing is compared. They are held to each other;
            what their precision costs is for the export's gate.
        engine: Vectors of the first of ours.
        lowest: Lowest cosine to the fp32 engine's vectors, by contestant.
        served: Lowest cosine of ours to the engine on the same graph, by contestant.
        wrong: Why contestants must not be timed, by name.
    """

    dimensions: int
    exact: Vectors = field(default_factory=dict)
    ours: Collection[str] = (BARE, SERVED)
    engine: Vectors = field(default_factory=dict)
    lowest: dict[str, float] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def check(self, contestant: Contestant, load: str, vectors: NDArray[np.float32]) -> None:
        """Hold what a contestant answered on a load.

        Args:
            contestant: Who.
            load: Which load.
            vectors: ``[texts or queries, dim]`` float32.

        Raises:
            WrongAnswer: Another shape or norm, or the vectors are others.
        """
        name, kind = contestant.name, kind_of(load)
        against = self.exact.setdefault(kind, vectors)
        check_vectors(vectors, len(against), self.dimensions)
        cosine = _lowest(vectors, against)
        self.lowest[name] = min(self.lowest.get(name, 1.0), cosine)
        if name in self.ours:
            own = _lowest(vectors, self.engine.setdefault(kind, vectors))
            self.served[name] = min(self.served.get(name, 1.0), own)
            _hold(own, LOWEST_COSINE_SERVED, load)
        else:
            _hold(cosine, LOWEST_COSINE.get(contestant.precision, 0.97), load)


def kind_of(load: str) -> str:
    """Return what a load embeds: the texts, or the short queries."""
    return "queries" if load == SINGLE else "texts"


def agree(
    contestants: Sequence[Contestant], agreement: Agreement, say: Callable[[str], None]
) -> None:
    """Run each load once, untimed, and compare the vectors with those of the fp32 engine.

    Args:
        contestants: The bare engine first.
        agreement: What they are held to; gets what was found.
        say: Told the figures.

    Raises:
        WrongAnswer: Vectors of one of ours are not those of the engine.
        PeerFailed: One of ours died.
    """
    for contestant in contestants:
        name = contestant.name
        try:
            for load, run in contestant.loads.items():
                agreement.check(contestant, load, run().vectors)
        except (PeerFailed, WrongAnswer) as error:
            if name in agreement.ours:
                raise type(error)(f"{name}: {error}") from error
            agreement.wrong[name] = str(error)
        lowest = agreement.lowest
        say(f"{name}: {f'lowest cosine {lowest[name]:.6f}' if name in lowest else 'no vectors'}")


def _lowest(vectors: NDArray[np.float32], against: NDArray[np.float32]) -> float:
    return float((vectors * against).sum(axis=1).min())


def _hold(cosine: float, bar: float, load: str) -> None:
    if not cosine >= bar:
        raise WrongAnswer(
            f"its vectors are others: cosine {cosine:.4f} on the {load} load, {bar} wanted"
        )
