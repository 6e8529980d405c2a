"""Two tiny real models with everything that the demonstration model lacks: BOS and EOS, prompts for
queries, an instruction, and (one of them) shorter sizes."""

from __future__ import annotations

from pathlib import Path

from lasttoken_export.catalogue import parse_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from unit.export.checkpoints import CONFIG, tensors, write_folder
from unit.tokenizer.small import byte_level_tokenizer, contract_data

BOS, EOS = 256, 257
DIMENSIONS = 32
MAX_LENGTH = 40
_CONFIG = {**CONFIG, "vocab_size": 259}


def write_small_models(folder: Path) -> Path:
    """Write a Triton repository with the models `short` and `whole`."""
    checkpoint = write_folder(folder / "checkpoint", tensors(_CONFIG), config=_CONFIG)
    (checkpoint / "tokenizer.json").write_text(byte_level_tokenizer())
    for name, matryoshka in (("short", {"minimum": 8}), ("whole", None)):
        entry = parse_entry(
            {
                "name": name,
                "source": {"kind": "hub", "id": "a/b", "revision": None},
                "licence": {"id": "mit", "note": ""},
                "pooling": "last_token",
                "layer_norm": False,
                "dimensions": DIMENSIONS,
                "matryoshka": matryoshka,
                "attention": "causal",
                "precisions": ["fp32"],
                "tokenizer": contract_data(model=name, max_length=MAX_LENGTH),
                "quality": [],
                "golden_scores": None,
                "notes": "",
            }
        )
        options = ExportOptions(output=folder / "repository", intra_op_threads=1)
        export_model(open_checkpoint(checkpoint), entry, options)
    return folder / "repository"
