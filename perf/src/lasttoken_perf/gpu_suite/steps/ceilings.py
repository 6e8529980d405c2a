"""What the device can do at best: the model's own matrix products, and memory traffic."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch  # noqa: TID251 - the suite measures torch too

from lasttoken_perf.gpu_suite.arithmetic import layer_products
from lasttoken_perf.gpu_suite.derived import COPY, PRODUCTS, READ
from lasttoken_perf.gpu_suite.measuring import device_of
from lasttoken_perf.gpu_suite.random_weights import TORCH_TYPES
from lasttoken_perf.gpu_suite.settings import FLOAT_BYTES, SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_config
from lasttoken_perf.gpu_suite.step_report import StepReport
from lasttoken_perf.results import Row

PRODUCT = "matrix product"
CEILING = "ceiling"
_SECONDS = {"cuda": 0.4, "cpu": 0.02}
_TRAFFIC_BYTES = {"cuda": 4 * 2**30, "cpu": 2**24}  # far beyond any cache of the device
_MOST_RUNS = 1000


def run(settings: SuiteSettings) -> StepReport:
    """Measure both ceilings in the suite's precision."""
    dtype = TORCH_TYPES[settings.precision]
    base: Row = {
        "version": torch.__version__,
        "device": device_of(settings),
        "precision": settings.precision,
        "load": CEILING,
    }
    generator = torch.Generator(settings.device).manual_seed(settings.seed)

    def randomly(*shape: int) -> torch.Tensor:
        # Random, since products of zeros draw less power and run faster.
        values = torch.randn(shape, generator=generator, device=settings.device)
        return values.to(dtype)

    rows: list[Row] = []
    products = layer_products(shape_config(settings.shape), settings.batch_tokens)
    for repeat in range(1, settings.repeats + 1):
        seconds = 0.0
        for product in products:
            left = randomly(product.tokens, product.inputs)
            right = randomly(product.outputs, product.inputs)
            taken = _time(partial(torch.nn.functional.linear, left, right), settings)
            seconds += taken
            rows.append({**base, "subject": PRODUCT, "variant": str(product), "repeat": repeat,
                         "flops_per_s": product.operations / taken})  # fmt: skip
        operations = sum(product.operations for product in products)
        rows.append({**base, "subject": PRODUCTS, "repeat": repeat,
                     "flops_per_s": operations / seconds})  # fmt: skip
    rows += _traffic(base, randomly, settings)
    return StepReport(rows=rows)


def _traffic(
    base: Row, randomly: Callable[..., torch.Tensor], settings: SuiteSettings
) -> list[Row]:
    """Copy a large array, and multiply a large matrix by a vector, which reads it once."""
    size = FLOAT_BYTES[settings.precision]
    inputs = shape_config(settings.shape).hidden_size
    outputs = _TRAFFIC_BYTES[settings.device] // (size * inputs)
    matrix, vector = randomly(outputs, inputs), randomly(1, inputs)
    target = torch.empty_like(matrix)
    kinds: tuple[tuple[str, Callable[[], object], int], ...] = (
        (COPY, lambda: target.copy_(matrix), 2),
        (READ, lambda: torch.nn.functional.linear(vector, matrix), 1),
    )
    return [
        {**base, "subject": subject, "repeat": repeat,
         "bytes_per_s": passes * matrix.nbytes / _time(move, settings)}
        for repeat in range(1, settings.repeats + 1)
        for subject, move, passes in kinds
    ]  # fmt: skip


def _time(work: Callable[[], object], settings: SuiteSettings) -> float:
    """Return the mean seconds of a run, the device waited for before and behind all of them."""
    for _ in range(3):
        work()
    _wait(settings)
    runs, started_s = 0, time.perf_counter()
    group = 1
    while True:
        for _ in range(group):
            work()
        _wait(settings)
        runs += group
        taken_s = time.perf_counter() - started_s
        if taken_s > _SECONDS[settings.device] or runs >= _MOST_RUNS:
            return taken_s / runs
        group = min(2 * group, 64)  # so that waiting counts for little


def _wait(settings: SuiteSettings) -> None:
    if settings.device == "cuda":
        torch.cuda.synchronize()
