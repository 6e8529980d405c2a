"""The heads that a catalogue model was published with, which few of its tensors' shapes tell."""

from __future__ import annotations

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint.base import ModelFiles
from lasttoken_export.errors import HeadsMismatch


def check_heads(checkpoint: ModelFiles, entry: CatalogueEntry) -> None:
    """Refuse a checkpoint of an entry's size whose configuration divides it into other heads.

    Attention among other heads gives other vectors, and queries of 12 heads of 32 elements have
    the shape of those of 24 heads of 16. Key and value heads need no check of their own: beside
    the right query heads, the rows of the keys decide them.

    Args:
        checkpoint: Its configuration is read, none of its tensors.
        entry: The contract that it is served by. Checkpoints of another width or depth, smaller
            models served like it, may have any number of heads.

    Raises:
        HeadsMismatch: They are others.
    """
    config, published = checkpoint.config, entry.published_shape
    if published is None or config.num_heads is None:
        return
    if (config.hidden_size, config.num_layers) != (entry.dimensions, published["num_layers"]):
        return
    if config.num_heads != published["num_heads"]:
        another = ", or leave out --like if this is another model" if entry.weights_of else ""
        raise HeadsMismatch(
            f"{checkpoint.location}: its configuration says {config.num_heads} attention heads; "
            f"{entry.name}, of the same {published['num_layers']} layers of {entry.dimensions} "
            f"elements, has {published['num_heads']} ({published['source']}), and no tensor's "
            f"shape tells which is right: restore the published configuration{another}"
        )
