"""The subcommands of `lasttoken`, one module each.

A module defines one `Command` and imports what only its work needs inside its `run`. Only these
modules read the environment.
"""

from __future__ import annotations

from lasttoken.commands.command import Command
from lasttoken.commands.demo import DEMO
from lasttoken.commands.embed import EMBED
from lasttoken.commands.embed_corpus import EMBED_CORPUS
from lasttoken.commands.gateway import GATEWAY
from lasttoken.commands.models import MODELS
from lasttoken.commands.serve import SERVE

COMMANDS: tuple[Command, ...] = (
    SERVE,
    EMBED,
    EMBED_CORPUS,
    GATEWAY,
    MODELS,
    DEMO,
)
