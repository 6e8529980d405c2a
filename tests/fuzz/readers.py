"""Every reader of foreign files as a function of bytes: it may refuse, by its own errors only.

`test_readers` and `test_cards` damage good files, `coverage_guided` lets atheris find its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract import load_contract
from text_tokenizer import TextTokenizer
from tokenizer_errors import InvalidContract

from lasttoken.errors import RepositoryInvalid
from lasttoken.local.check_repository import check_model
from lasttoken.local.repository import read_repository
from lasttoken.model_card import parse_card
from lasttoken_export.card import read_card
from lasttoken_export.catalogue import parse_entry
from lasttoken_export.checkpoint import GgufFile, SafetensorsFolder, validate_tensors
from lasttoken_export.errors import ExportError
from lasttoken_export.folder_contract import entry_of_folder
from lasttoken_export.tokenizer.sentencepiece_file import tokenizer_json_from_sentencepiece
from unit.tokenizer.small import make_contract

Read = Callable[[bytes], object]


class Readers:
    """The readers, with a folder to lay their files in.

    Args:
        folder: Empty.
        config: A good config.json for the readers of folders.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self._folder = folder
        (folder / "config.json").write_text(json.dumps(config))

    def by_name(self) -> dict[str, Read]:
        """All readers."""
        return {
            "gguf": self.gguf,
            "safetensors": self.safetensors,
            "safetensors-index": self.safetensors_index,
            "config": self.config,
            "sentencepiece": self.sentencepiece,
            "tokenizer-json": self.tokenizer_json,
            "contract": self.contract,
            "modules": self.modules,
            "catalogue-entry": self.catalogue_entry,
            "card-of-a-server": parse_card_bytes,
            "card-of-an-export": self.card_of_an_export,
            "card-of-a-repository": self.card_of_a_repository,
            "config-pbtxt": self.config_pbtxt,
        }

    def gguf(self, data: bytes) -> str | None:
        """A GGUF file: directory, tensors, vocabulary."""
        path = self._write("m.gguf", data)
        try:
            checkpoint = GgufFile(path)
            checkpoint.names_of_model()
            validate_tensors(checkpoint)
            for name in checkpoint.names():
                assert checkpoint.read(name).shape == checkpoint.shape(name)
            return checkpoint.tokenizer_json()
        except ExportError as error:
            return refusal(error)

    def safetensors(self, data: bytes) -> str | None:
        """One safetensors file."""
        path = self._write("model.safetensors", data)
        try:
            return self._read_folder()
        finally:
            path.unlink()

    def safetensors_index(self, data: bytes) -> str | None:
        """The index of a folder of shards."""
        path = self._write("model.safetensors.index.json", data)
        try:
            return self._read_folder()
        finally:
            path.unlink()

    def config(self, data: bytes) -> str | None:
        """config.json, without weights: they are looked for when it is good."""
        path = self._folder / "config.json"
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            return self._read_folder()
        finally:
            path.write_bytes(good)

    def _read_folder(self) -> str | None:
        try:
            checkpoint = SafetensorsFolder(self._folder)
            validate_tensors(checkpoint)
            for name in checkpoint.names():
                assert checkpoint.read(name).shape == checkpoint.shape(name)
        except ExportError as error:
            return refusal(error)
        return None

    def sentencepiece(self, data: bytes) -> str | None:
        """tokenizer.model."""
        path = self._write("tokenizer.model", data)
        try:
            return tokenizer_json_from_sentencepiece(path)
        except ExportError as error:
            return refusal(error)
        finally:
            path.unlink()

    def tokenizer_json(self, data: bytes) -> str | None:
        """tokenizer.json, as the server loads it."""
        try:
            TextTokenizer(make_contract(), data.decode("utf-8", "replace"))
        except InvalidContract as error:
            return refusal(error)
        return None

    def contract(self, data: bytes) -> str | None:
        """contract.json, as the server loads it."""
        try:
            load_contract(self._write("contract.json", data))
        except InvalidContract as error:
            return refusal(error)
        return None

    def modules(self, data: bytes) -> str | None:
        """modules.json and what else of sentence-transformers; `data` is one object of files."""
        files = json.loads(data)
        for name, value in files.items():
            path = self._folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(value))
        try:
            entry_of_folder(self._folder, SafetensorsFolder(self._folder))
        except (ExportError, InvalidContract) as error:
            return refusal(error)
        finally:
            for name in files:
                (self._folder / name).unlink()
        return None

    def catalogue_entry(self, data: bytes) -> str | None:
        """An entry of the catalogue; `data` is a JSON object."""
        try:
            parse_entry(json.loads(data))
        except ExportError as error:
            return refusal(error)
        return None

    def card_of_an_export(self, data: bytes) -> str | None:
        """card.json, as the exporter reads it back."""
        try:
            read_card(self._write("card.json", data))
        except ExportError as error:
            return refusal(error)
        return None

    def card_of_a_repository(self, data: bytes) -> str | None:
        """card.json, as it is held against the files of a repository."""
        path = self._folder / "m" / "1" / "card.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        wrong = check_model(self._folder, "m")
        assert wrong, "there is no file that a card could name rightly"
        return "\n".join(wrong)

    def config_pbtxt(self, data: bytes) -> str | None:
        """config.pbtxt of a repository."""
        path = self._folder / "repository" / "m" / "config.pbtxt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        try:
            read_repository(path.parents[1])
        except RepositoryInvalid as error:
            return refusal(error)
        return None

    def _write(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path


def parse_card_bytes(data: bytes) -> object:
    """A card, as a server sends it."""
    return parse_card(data.decode("utf-8", "replace"))


def refusal(error: Exception) -> str:
    """The words of a refusal; there must be some."""
    assert str(error)
    return str(error)
