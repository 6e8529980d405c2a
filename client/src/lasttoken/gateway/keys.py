"""API keys: read from a file or a string, several, replaced without a restart.

A line is `NAME KEY [requests=N] [texts=N] [tokens=N]`; the numbers are limits per minute. KEY is
the key itself or `sha256:` and the SHA-256 of it in hex, so that a file need not hold a secret.
Empty lines and those that begin with `#` are skipped. In memory only digests are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lasttoken.errors import InvalidInput

SHORTEST_KEY = 16
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
LIMITS = ("requests", "texts", "tokens")
"""What a key may have limits of, a minute: fields of an `ApiKey`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key.

    Attributes:
        name: What logs and metrics call it.
        digest: SHA-256 of the key.
        requests: Requests per minute; None: no limit.
        texts: Texts per minute; None: no limit.
        tokens: Tokens per minute; None: no limit.
    """

    name: str
    digest: bytes
    requests: int | None = None
    texts: int | None = None
    tokens: int | None = None


def parse_keys(lines: Iterable[str], *, source: str) -> tuple[ApiKey, ...]:
    """Read keys.

    Args:
        lines: One key a line.
        source: Where they stand, for messages; no message holds a key.

    Raises:
        InvalidInput: A line is not a key, or a name or a key stands there twice.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, start=1):
        if words := line.split("#", maxsplit=1)[0].split():
            keys.append(_parse_line(words, f"{source}, line {number}"))
    for what in ("name", "digest"):
        values = [getattr(key, what) for key in keys]
        if len(set(values)) < len(values):
            again = next(key.name for key in keys if values.count(getattr(key, what)) > 1)
            raise InvalidInput(
                f"{source}: two keys have the same {'name' if what == 'name' else 'value'} "
                f"({again!r} is one of them)"
            )
    return tuple(keys)


def _parse_line(words: list[str], place: str) -> ApiKey:
    if len(words) < 2:
        raise InvalidInput(f"{place}: write NAME KEY, and limits behind them")
    name, key, *limits = words
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{place}: a name has 1 to 64 letters, digits and . _ -; write NAME KEY, in this order"
        )
    if stated := _DIGEST.fullmatch(key):
        digest = bytes.fromhex(stated[1])
    elif len(key) < SHORTEST_KEY or not key.isascii():
        raise InvalidInput(
            f"{place}: the key of {name!r} has {len(key)} characters; it must have at least "
            f"{SHORTEST_KEY}, all ASCII (openssl rand -hex 24 makes one)"
        )
    else:
        digest = hashlib.sha256(key.encode()).digest()
    numbers: dict[str, int] = {}
    for limit in limits:
        kind, _, value = limit.partition("=")
        if kind not in LIMITS or not value.isdecimal() or int(value) < 1 or kind in numbers:
            raise InvalidInput(
                f"{place}: {limit!r} is no limit; write requests=N, texts=N or tokens=N once each, "
                "N per minute"
            )
        numbers[kind] = int(value)
    return ApiKey(name=name, digest=digest, **numbers)


class KeyRing:
    """The keys that are valid now."""

    def __init__(self, *, file: Path | None = None, direct: str | None = None) -> None:
        """Read the keys.

        Args:
            file: Read now, and again by `refresh` when it has changed.
            direct: Keys given directly, separated by newlines or `;`.

        Raises:
            InvalidInput: The file cannot be read, or a line of either is not a key.
        """
        self._file = file
        self._direct = direct
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[ApiKey, ...] = ()
        self.required = file is not None or direct is not None
        if self.required:
            self._load()

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The valid keys."""
        return self._keys

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the valid keys."""
        return tuple(key.name for key in self._keys)

    def find(self, presented: str) -> ApiKey | None:
        """Find the key that a caller presents, in a time that does not depend on which it is."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
        found = None
        for key in self._keys:  # all of them, and no early end
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def refresh(self) -> bool:
        """Read the file again if it has changed.

        Returns:
            Whether the keys were read anew.

        Raises:
            InvalidInput: The new file is not valid; the keys stay as they were until it changes
                again.
        """
        if self._file is None or self._stamp() == self._seen:
            return False
        self._load()
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        assert self._file is not None
        try:
            status = self._file.stat()  # of what a link points to: Kubernetes replaces the link
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _load(self) -> None:
        keys: list[str] = []
        if self._file is not None:
            self._seen = self._stamp()
            try:
                keys += self._file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidInput(f"the keys cannot be read: {error}") from None
        from_file = parse_keys(keys, source=str(self._file))
        direct = parse_keys(
            re.split(r"[\n;]", self._direct or ""), source="the keys given directly"
        )
        both = (*from_file, *direct)
        if len({key.name for key in both} | {key.digest for key in both}) < 2 * len(both):
            raise InvalidInput(f"{self._file} and the keys given directly share a name or a key")
        if not both:
            raise InvalidInput(
                f"{self._file or 'the keys given directly'}: there is no key in it; without any "
                "nobody could call"
            )
        self._keys = both
