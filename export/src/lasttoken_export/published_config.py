"""What a catalogue model was published with and no shape of its tensors tells."""

from __future__ import annotations

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint.base import ModelFiles
from lasttoken_export.errors import HeadsMismatch, RotaryBaseMismatch


def check_published_config(checkpoint: ModelFiles, entry: CatalogueEntry) -> None:
    """Refuse a checkpoint of an entry's size whose configuration says another model than its.

    Attention among other heads gives other vectors, and queries of 12 heads of 32 elements have
    the shape of those of 24 heads of 16. Key and value heads need no check of their own: beside
    the right query heads, the rows of the keys decide them. Rotary frequencies of another base
    give other vectors too, and are in no tensor at all; a configuration that has lost them means
    the default of its architecture.

    Args:
        checkpoint: Its configuration is read, none of its tensors.
        entry: The contract that it is served by. Checkpoints of another width or depth, smaller
            models served like it, may have any number of heads and any base.

    Raises:
        HeadsMismatch: The heads are others.
        RotaryBaseMismatch: The rotary base is another.
    """
    config, published = checkpoint.config, entry.published_shape
    if published is None:
        return
    if (config.hidden_size, config.num_layers) != (entry.dimensions, published["num_layers"]):
        return
    another = ", or leave out --like if this is another model" if entry.weights_of else ""
    advice = f"no tensor's shape tells which is right: restore the published configuration{another}"
    of_same_size = (
        f"{entry.name}, of the same {published['num_layers']} layers of {entry.dimensions} elements"
    )
    if config.num_heads not in (None, published["num_heads"]):
        raise HeadsMismatch(
            f"{checkpoint.location}: its configuration says {config.num_heads} attention heads; "
            f"{of_same_size}, has {published['num_heads']} ({published['source']}), and {advice}"
        )
    base = published.get("rope_theta")
    if base is not None and config.rope_theta not in (None, base):
        raise RotaryBaseMismatch(
            f"{checkpoint.location}: its configuration says rotary frequencies of base "
            f"{config.rope_theta:.10g}, or says none and means it; {of_same_size}, has {base:.10g} "
            f"({published['source']}), and {advice}"
        )
