"""Whole folders of small random models, as sentence-transformers lays them out."""

import json

import torch  # noqa: TID251 - the reference
import transformers  # noqa: TID251 - the reference
from tokenizers import Tokenizer, processors

from unit.tokenizer.small import byte_level_tokenizer

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 259,
    "max_position_embeddings": 130,
}


def write_random_folder(folder, family, *, pooling, **settings):
    """Write a random model with a tokenizer of bytes; return transformers' model of it."""
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **settings})
    model = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of one and biases of none prove nothing
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer = Tokenizer.from_str(byte_level_tokenizer())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{k}", "path": "1_Pooling"} for k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return model
