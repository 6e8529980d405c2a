"""The models behind the gateway, by every name that a caller may use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lasttoken.async_client import AsyncEmbeddingClient
from lasttoken.embeddings import ModelInfo
from lasttoken.errors import LasttokenError
from lasttoken.gateway.prompt_choice import INPUT_TYPES, PromptChoice
from lasttoken.gateway.refusals import NOT_FOUND, UNAVAILABLE, Refusal, invalid
from lasttoken.gateway.settings import GatewaySettings
from lasttoken.gateway.token_ids import TokenContract
from lasttoken.gateway.token_steps import EncoderStep, TokenizerStep

LIST_AGE_S = 30.0
"""After this the list of models is asked for again."""
SHORTEST_AGE_S = 1.0
"""An unknown name asks for it again, but not more often than this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedModel:
    """One model and the connections to it.

    Attributes:
        info: What the server says about it.
        tokenizer: The first step of its ensemble.
        encoder: The second.
        since: When the gateway first saw it, in seconds since 1970.
    """

    info: ModelInfo
    tokenizer: TokenizerStep
    encoder: EncoderStep
    since: int

    @property
    def name(self) -> str:
        """Triton's name of the ensemble."""
        return self.info.name

    @property
    def card(self) -> Mapping[str, Any]:
        """The exporter's card; empty where the model has none."""
        return self.info.card or {}

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of its prompts."""
        return tuple(self.card.get("prompts") or ())

    @property
    def dimensions(self) -> int:
        """Elements of its vectors."""
        return self.info.dimensions or 0

    def token_contract(self) -> TokenContract:
        """What rows of its tokens look like.

        Raises:
            Refusal: 400: the model was exported before cards said so.
        """
        try:
            return TokenContract(
                opening_ids=tuple(self.card["opening_ids"]),
                closing_ids=tuple(self.card["closing_ids"]),
                vocab_size=int(self.card["vocab_size"]),
                max_length=int(self.card["max_length"]),
            )
        except KeyError as missing:
            raise invalid(
                f"{self.name} takes no token ids, as its card does not say {missing}; send texts, "
                "or have the model exported again",
                param="input",
            ) from None


async def _close(model: ServedModel) -> None:
    await model.tokenizer.close()
    await model.encoder.close()


class ModelDirectory:
    """Knows which models there are; asks the server now and then."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Make a directory; nothing is asked yet."""
        self._settings = settings
        self._client = AsyncEmbeddingClient(**self._connection())
        self._models: dict[str, ServedModel] = {}
        self._names: dict[str, ServedModel] = {}
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._closings: set[asyncio.Task[None]] = set()

    async def all(self) -> tuple[ServedModel, ...]:
        """Every model that is ready, in order of names."""
        await self._fresh(LIST_AGE_S)
        return tuple(self._models.values())

    async def find(self, name: str | None) -> tuple[ServedModel, PromptChoice]:
        """Find the model that a caller names, and the prompt that the name carries.

        Args:
            name: Triton's name, the catalogue's, or an alias; `NAME:SUFFIX` with the name of a
                prompt or an input type; None for the default model.

        Raises:
            Refusal: 404: there is no such model; 400: none is named, and there are several; 503:
                none is named, and there is none.
            LasttokenError: The server could not be asked.
        """
        await self._fresh(LIST_AGE_S)
        found = self._look_up(name)
        if found is None:
            await self._fresh(SHORTEST_AGE_S)
            found = self._look_up(name)
        if found is not None:
            return found
        raise self._not_found(name)

    async def close(self) -> None:
        """Close all connections."""
        if self._asking is not None:
            self._asking.cancel()
        await self._client.close()
        for model in self._models.values():
            await _close(model)
        for closing in self._closings:
            closing.cancel()
        await asyncio.gather(*self._closings, return_exceptions=True)

    def _not_found(self, name: str | None) -> Refusal:
        known = sorted(self._models)
        there = f"there is {', '.join(known) or 'none at present'}"
        default = self._settings.default_model
        if name is not None:
            return Refusal(NOT_FOUND, f"the model {name!r} does not exist; {there}", param="model")
        if default is not None:
            words = f"no model is named, and the default one, {default!r}, does not exist; {there}"
            return Refusal(NOT_FOUND, words, param="model")
        if not known:
            return Refusal(UNAVAILABLE, "the server has no model that is ready; try again later")
        return invalid(
            f"no model is named and there are several: {', '.join(known)}; name one, or, where the "
            "caller cannot, start the gateway with --default-model",
            param="model",
        )

    def _look_up(self, name: str | None) -> tuple[ServedModel, PromptChoice] | None:
        if name is None:
            name = self._settings.default_model
        if name is None:
            only = next(iter(self._models.values())) if len(self._models) == 1 else None
            return None if only is None else (only, PromptChoice())
        if model := self._names.get(name):
            return model, PromptChoice()
        base, colon, suffix = name.rpartition(":")
        model = self._names.get(base)
        if not colon or model is None:
            return None
        if suffix in model.prompts or (suffix and not model.prompts):
            return model, PromptChoice(prompt_name=suffix)
        if suffix in INPUT_TYPES:
            return model, PromptChoice(input_type=suffix)
        return None

    async def _fresh(self, age_s: float) -> None:
        """Ask for the list if ours is older; several callers share one question."""
        if time.monotonic() - self._asked_at < age_s:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ask())
        try:
            await asyncio.shield(self._asking)
        except LasttokenError:
            if not self._models:
                raise
            # What we knew is better than nothing: the request itself will tell.

    async def _ask(self) -> None:
        timeout_s = min(10.0, self._settings.timeout_s)
        infos = await self._client.list_models(timeout_s=timeout_s)
        self._asked_at = time.monotonic()
        models = {info.name: self._kept(info) for info in infos if info.ready and info.dimensions}
        gone = [model for name, model in self._models.items() if models.get(name) is not model]
        self._models = models
        self._names = self._all_names()
        for model in gone:
            if model.name not in models:
                closing = asyncio.ensure_future(self._close_unused(model))
                self._closings.add(closing)
                closing.add_done_callback(self._closings.discard)

    async def _close_unused(self, model: ServedModel) -> None:
        """Close the connections of a model that is gone, when no request can have it any more.

        One of several servers may say so: the others go on answering the requests in flight.
        """
        try:
            await asyncio.sleep(self._settings.timeout_s)
        finally:
            await _close(model)

    def _kept(self, info: ModelInfo) -> ServedModel:
        known = self._models.get(info.name)
        if known is not None and known.info == info:
            return known
        connection = self._connection()
        return ServedModel(
            info=info,
            tokenizer=known.tokenizer
            if known
            else TokenizerStep(model=f"{info.name}_tokenizer", **connection),
            encoder=known.encoder
            if known
            else EncoderStep(model=f"{info.name}_encoder", **connection),
            since=known.since if known else int(time.time()),
        )

    def _connection(self) -> dict[str, Any]:
        settings = self._settings
        return {"url": settings.url, "tls": settings.tls, "token": settings.token}

    def _all_names(self) -> dict[str, ServedModel]:
        names = dict(self._models)
        for model in self._models.values():
            if catalogue_name := model.card.get("model"):
                names.setdefault(str(catalogue_name), model)
        for alias, name in self._settings.aliases.items():
            if name in names:
                names[alias] = names[name]
        return names
