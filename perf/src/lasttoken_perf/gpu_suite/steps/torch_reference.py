"""The practical ceiling: the packed decoder in torch with variable-length attention."""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID251 - the suite measures torch too

from lasttoken_perf.gpu_suite.measuring import Contestant, measure, packed_batches
from lasttoken_perf.gpu_suite.packed_torch import PackedTorchModel
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport

SUBJECT = "torch, packed"


def run(settings: SuiteSettings) -> StepReport:
    """Measure it as it is and, on a GPU, with its element-wise parts compiled.

    Raises:
        WrongAnswer: Its vectors are not the reference's.
    """
    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    report = StepReport(rows=[])
    for compiled in (False, True) if settings.device == "cuda" else (False,):
        variant = "element-wise parts compiled" if compiled else "eager"
        try:
            model = PackedTorchModel(weights, device=settings.device, compiled=compiled)
            contestant = Contestant(
                subject=SUBJECT,
                version=torch.__version__,
                precision=settings.precision,
                embed_batch=packed_batches(model.encode),
                variant=f"{model.attention_name}, {variant}",
            )
            found = measure(contestant, settings)
        except RuntimeError as error:
            if not compiled:
                raise
            # A compiler that is missing on the machine costs the variant, not the step.
            report.checks[variant] = f"cannot run here: {str(error).strip().splitlines()[0]}"
        else:
            report.rows.extend(found.rows)
            report.checks[contestant.variant] = found.checks
            report.checks["attentions passed over"] = dict[str, Any](model.passed_over)
    return report
