"""The practical ceiling: the packed decoder in torch with variable-length attention."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import torch  # noqa: TID251 - the suite measures torch too

from lasttoken_perf.gpu_suite.derived import PRACTICAL
from lasttoken_perf.gpu_suite.measuring import Contestant, measure, packed_batches
from lasttoken_perf.gpu_suite.packed_torch import PackedTorchModel
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport

_VARIANTS: Mapping[str, Mapping[str, bool]] = {
    "eager": {},
    "short texts as CUDA graphs": {"graphs": True},
    "compiled, short texts as CUDA graphs": {"graphs": True, "compiled": True},
}
"""Of a GPU; a processor has the first alone. Compiled are the element-wise parts."""


def run(settings: SuiteSettings) -> StepReport:
    """Measure every variant; one that cannot run here costs no other.

    Raises:
        WrongAnswer: Vectors of the first variant are not the reference's.
    """
    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    report = StepReport(rows=[])
    for name, options in _VARIANTS.items():
        if options and settings.device != "cuda":
            continue
        try:
            found = _measure(weights, settings, name, options)
        except Exception as error:
            if not options:
                raise
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            report.rows.append({"subject": f"{PRACTICAL} ({name})", "discarded": reason})
        else:
            report.rows.extend(found.rows)
            report.checks[name] = found.checks
    return report


def _measure(
    weights: RandomWeights, settings: SuiteSettings, name: str, options: Mapping[str, bool]
) -> StepReport:
    gc.collect()  # the variant before, whose graphs and model hold each other
    if settings.device == "cuda":
        torch.cuda.empty_cache()
    model = PackedTorchModel(weights, device=settings.device, **options)
    contestant = Contestant(
        subject=PRACTICAL,
        version=torch.__version__,
        precision=settings.precision,
        embed_batch=packed_batches(model.encode),
        variant=f"{model.attention_name}, {name}",
    )
    report = measure(contestant, settings)
    report.checks["attentions_passed_over"] = model.passed_over
    return report
