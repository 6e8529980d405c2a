"""What is sent: kinds of texts in fixed shares, by both ways in, at random times."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Way = Literal["gRPC", "gateway"]
WAYS: tuple[Way, ...] = ("gRPC", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of request.

    Attributes:
        distribution: Lengths of its texts, of `lasttoken_perf.corpus.DISTRIBUTIONS`.
        priority: Class of service.
        share: Requests of it in a deck by each way in.
    """

    distribution: str
    priority: Literal["interactive", "bulk"]
    share: int


KINDS = (
    Kind(distribution="queries", priority="interactive", share=6),
    Kind(distribution="passages", priority="interactive", share=3),
    Kind(distribution="documents", priority="bulk", share=1),
)
"""Six searches and three passages to each document, by gRPC and through the gateway alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One text, its class of service, and the way that it takes."""

    kind: Kind
    way: Way
    text: str


def endless_requests(texts: Mapping[str, Sequence[str]], *, seed: int) -> Iterator[Request]:
    """Yield requests for ever.

    They come in shuffled decks that hold every kind by every way as often as its share says, the
    ways in turn, so that two stretches of time get the same work within a deck, however few
    documents there are, and a short one has both ways.

    Args:
        texts: Texts of each distribution.
        seed: Decides order and texts.
    """
    randomness = random.Random(seed)
    decks = [[kind for kind in KINDS for _ in range(kind.share)] for _ in WAYS]
    while True:
        for deck in decks:
            randomness.shuffle(deck)
        for kinds in zip(*decks, strict=True):
            for kind, way in zip(kinds, WAYS, strict=True):
                text = randomness.choice(texts[kind.distribution])
                yield Request(kind=kind, way=way, text=text)


def poisson_times_s(rate_per_s: float, seconds: float, *, seed: int) -> list[float]:
    """Return the arrivals of a Poisson process within so many seconds, in order.

    Args:
        rate_per_s: Mean arrivals a second.
        seconds: Length.
        seed: Decides the times.
    """
    randomness = random.Random(seed)
    times = []
    at_s = randomness.expovariate(rate_per_s)
    while at_s < seconds:
        times.append(at_s)
        at_s += randomness.expovariate(rate_per_s)
    return times
