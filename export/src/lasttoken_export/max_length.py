"""The longest text at which a graph still is the model."""

from __future__ import annotations

from lasttoken_export.checkpoint.base import ServedConfig
from lasttoken_export.errors import MaxLengthBeyondModel


def check_max_length(config: ServedConfig, max_length: int) -> None:
    """Refuse a maximum length at which the graph would not be the model.

    Raises:
        MaxLengthBeyondModel: It is not positive, beyond the positions, or beyond the sliding
            window, which the graph does not mask.
    """
    if max_length < 1:
        raise MaxLengthBeyondModel(f"maximum length {max_length!r} is not positive")
    if config.sliding_window is not None and max_length > config.sliding_window:
        raise MaxLengthBeyondModel(
            f"maximum length {max_length} is beyond the sliding window of {config.sliding_window} "
            f"tokens, which the graph does not mask; choose --max-length {config.sliding_window} "
            "or less"
        )
    if max_length > config.max_positions:
        raise MaxLengthBeyondModel(
            f"maximum length {max_length} is beyond the {config.max_positions} positions that the "
            f"model was trained for; choose --max-length {config.max_positions} or less"
        )
