"""Loads modules of the Triton models: an export is checked by the code that will serve it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from lasttoken_export.model_sources import SOURCE_MODEL, model_sources


def server_module(step: str, name: str) -> ModuleType:
    """Import a module that lies beside a step's model.py.

    Args:
        step: `model_sources.TOKENIZER` or `model_sources.ENCODER`.
        name: Name of the module.
    """
    folder = str(model_sources() / f"{SOURCE_MODEL}{step}" / "1")
    if folder not in sys.path:
        # Last, as in Triton's stub: these modules never hide an installed one.
        sys.path.append(folder)
    return importlib.import_module(name)
