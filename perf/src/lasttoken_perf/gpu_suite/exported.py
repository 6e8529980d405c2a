"""What the exporter makes of random weights: a repository that Triton serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lasttoken_export.catalogue import CatalogueEntry, Licence
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_perf.gpu_suite.graph_file import PROVIDERS, TARGETS
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_config
from lasttoken_perf.gpu_suite.word_tokenizer import CLOSING_ID, OPENING_ID, SPECIAL_TOKENS

MODEL = "gpu_suite"
"""Name of the ensemble."""


def export_repository(weights: RandomWeights, settings: SuiteSettings) -> Path:
    """Export the weights as users export a model, unless that was done before.

    Returns:
        The Triton model repository, with one ensemble `MODEL`.

    Raises:
        ExportError: The exporter refuses.
    """
    repository = settings.run_folder / "repository"
    if not (repository / MODEL / "1" / "card.json").is_file():
        options = ExportOptions(
            output=repository,
            precision=settings.precision,
            runtime=TARGETS[PROVIDERS[settings.device]],
            triton_name=MODEL,
            max_length=settings.max_length,
            quality=QualityOptions(pairs=0),  # random weights retrieve nothing
        )
        export_model(weights, served_entry(settings), options)
    return repository


def encoder_folder(repository: Path) -> Path:
    """Return the folder of the encoder's version, where encoder.onnx lies."""
    return repository / f"{MODEL}{ENCODER}" / "1"


def served_entry(settings: SuiteSettings) -> CatalogueEntry:
    """Return SFR-Embedding-Mistral's contract with the suite's tokenizer."""
    published = catalogue_entry("sfr-embedding-mistral")
    return replace(
        published,
        name="gpu-suite",
        source={"kind": "hub", "id": "none", "revision": "none"},
        licence=Licence(id="CC0-1.0", note="random weights"),
        dimensions=shape_config(settings.shape).hidden_size,
        tokenizer={
            "model": "gpu-suite",
            "sequence": ["<s>", "$A", "</s>"],
            "special_tokens": SPECIAL_TOKENS,
            "max_length": settings.max_length,
            "prompts": {},
            "default_prompt_name": None,
            "instruction_template": None,
            "golden": [{"text": "t7 t5 t9", "prompt_name": None,
                        "ids": [OPENING_ID, 7, 5, 9, CLOSING_ID]}],
        },
        quality=(),
        golden_scores=None,
        notes="Random weights of the GPU suite.",
    )  # fmt: skip
