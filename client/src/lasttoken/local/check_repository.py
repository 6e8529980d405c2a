"""Checks models of a repository against the digests on their cards, before anything is loaded.

    check_repository.py FOLDER [MODEL...]       MODEL: ensembles; without: all that have a card

Each card (``<model>/1/card.json``) names the files that decide what the model answers, with their
SHA-256. A file that is missing, differs, or lies outside the model's own folders fails the check,
as does a repository without a card, or a card with no files.

Exit codes: 0 all as exported, 1 not, 2 wrong usage. Only the standard library is used: the images
copy this file and run it by itself.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import stat
import sys
from pathlib import Path

STEPS = ("", "_tokenizer", "_encoder")


def models_with_cards(repository: Path) -> list[str]:
    """Names of the ensembles that have a card."""
    return sorted(card.parents[1].name for card in repository.glob("*/1/card.json"))


def check_model(repository: Path, model: str) -> list[str]:
    """Return what is wrong with one model, a line a file; empty if it is as exported."""
    if Path(model).name != model:
        return [f"{model!r}: not the name of a model's folder"]
    card_file = repository / model / "1" / "card.json"
    try:
        check_regular(card_file)
        card = json.loads(card_file.read_text(encoding="utf-8"))
        digests = card["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{card_file}: not a readable card ({error!r})"]
    if not isinstance(digests, dict):
        return [f"{card_file}: sha256 is not digests by file"]
    if not digests:
        return [f"{card_file}: names no files"]
    own = [(f"{model}{step}",) for step in STEPS]
    wrong = []
    for name, expected in sorted(digests.items()):
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or "\0" in name or parts[:1] not in own:
            wrong.append(f"{name}: not within the folders of {model}")
            continue
        try:
            found = sha256(repository / name)
        except (OSError, ValueError) as error:  # ValueError: no file can have that name
            wrong.append(f"{name!r}: {getattr(error, 'strerror', error)}")
            continue
        if found != expected:
            wrong.append(f"{name}: sha256 is {found}, the card says {expected}")
    return wrong


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    check_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_regular(path: Path) -> None:
    """Refuse what is no file of bytes: a pipe would keep its reader waiting.

    Raises:
        OSError: It is not one, or not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def main() -> int:
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(prog="check_repository.py", description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    options = parser.parse_args()
    models = options.models or models_with_cards(options.repository)
    if not models:
        sys.stderr.write(f"{options.repository}: no model with a card\n")
        return 1
    wrong = [line for model in models for line in check_model(options.repository, model)]
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    if not wrong:
        sys.stdout.write(f"as exported: {', '.join(models)}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
