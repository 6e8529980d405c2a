"""The unfinished state of an output file: `FILE.part/`, from which a later run goes on.

    state.json   what the run is: model and form; a run of something else does not go on with it
    rows.bin     a record of fixed size for each text that is done, in the order of the texts
    stdin.txt    the texts, when they came on standard input

A record holds the vector, the token count, whether the text was cut, and a digest of the text. The
rows that are done are the whole records; an incomplete one at the end is dropped. So a run may end
in any way, also by SIGKILL, and no row is lost or doubled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lasttoken.embeddings import Embeddings
from lasttoken.errors import InvalidInput

_CHUNK_BYTES = 8 * 2**20


class PartFolder:
    """The folder beside an output file.

    Attributes:
        path: Where it is.
        rows_wanted: Rows of the whole run; None while nobody has counted them.
    """

    def __init__(self, output: Path) -> None:
        """Say which output file it belongs to; nothing is made."""
        self.rows_wanted: int | None = None
        self.path = output.with_name(output.name + ".part")
        self._dtype: np.dtype[Any] | None = None
        self._stream: BinaryIO | None = None
        self._rows_path = self.path / "rows.bin"
        self._state_path = self.path / "state.json"

    def rows(self) -> int:
        """How many rows are done; of an unfinished run there is at least one.

        Raises:
            InvalidInput: There are some, and nothing that says what they are.
        """
        size_bytes = self._rows_path.stat().st_size if self._rows_path.exists() else 0
        if not size_bytes:
            return 0
        state = self._read_state()
        return size_bytes // _record_type(np.dtype(state["dtype"]), state["width"]).itemsize

    def told(self) -> str:
        """What is done, for who has interrupted the run."""
        if rows := self.rows():
            of_all = "" if self.rows_wanted is None else f" of {self.rows_wanted}"
            return f"{rows}{of_all} texts are done, in {self.path}; --resume goes on with them"
        return "no text is done" + ("" if self.path.exists() else ", and nothing is left behind")

    @contextmanager
    def kept_if_it_has_rows(self) -> Iterator[None]:
        """Remove the folder when the run that made it fails and has no row in it.

        There is nothing to go on with, and the state of a run that was refused would stand in the
        way of the corrected one.
        """
        was_there = self.path.exists()
        try:
            yield
        except BaseException:
            if not (was_there or self.rows()):
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def make(self) -> None:
        """Make the folder, without a state."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{str(self.path)!r} cannot be made: {error}") from error

    def begin(self, state: Mapping[str, Any], dtype: np.dtype[Any], width: int) -> int:
        """Open the rows, of `width` elements each; go on where an earlier run ended.

        Args:
            state: What decides the rows, as JSON values.
            dtype: Type of a vector's elements.
            width: Elements of a vector.

        Returns:
            Number of rows that are done.

        Raises:
            InvalidInput: The earlier run was of something else.
        """
        self._dtype = _record_type(dtype, width)
        wanted = {**state, "dtype": dtype.str, "width": width}
        if self.rows():
            found = self._read_state()
            differing = sorted(k for k in wanted.keys() | found if wanted.get(k) != found.get(k))
            if differing:
                told = "; ".join(
                    f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}" for key in differing
                )
                raise InvalidInput(
                    f"{self.path} is an unfinished run of something else: {told}. Give the same "
                    "arguments, or remove it and begin anew"
                )
        else:
            self._rows_path.write_bytes(b"")
            self._state_path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        done = self._rows_path.stat().st_size // self._dtype.itemsize
        self._stream = self._rows_path.open("r+b")
        self._stream.truncate(done * self._dtype.itemsize)
        self._stream.seek(0, 2)
        return done

    def check_texts(self, texts: Iterator[str], done: int) -> None:
        """Take the texts of the rows that are done from an iterator, and check that they are these.

        Raises:
            InvalidInput: The input has changed.
        """
        position = 0
        for chunk in self.chunks(done):
            for digest in chunk["text_digest"]:
                text = next(texts, None)
                if text is None or text_digest(text) != digest.ljust(8, b"\0"):
                    raise InvalidInput(
                        f"the input is not that of the unfinished run: text {position} differs. "
                        f"Give the same input, or remove {self.path} and begin anew"
                    )
                position += 1

    def append(self, texts: list[str], block: Embeddings) -> None:
        """Add the rows of texts, in one write."""
        assert self._dtype is not None
        assert self._stream is not None
        records = np.empty(len(texts), dtype=self._dtype)
        records["embedding"] = block.vectors
        records["token_count"] = block.token_counts
        records["truncated"] = block.truncated
        records["text_digest"] = [text_digest(text) for text in texts]
        self._stream.write(records.tobytes())
        self._stream.flush()

    def chunks(self, count: int) -> Iterator[npt.NDArray[Any]]:
        """The first `count` records, some megabytes at a time."""
        assert self._dtype is not None
        rows_a_chunk = max(1, _CHUNK_BYTES // self._dtype.itemsize)
        with self._rows_path.open("rb") as stream:
            while count > 0:
                records = np.fromfile(stream, dtype=self._dtype, count=min(count, rows_a_chunk))
                assert len(records), "rows.bin is shorter than it was"
                count -= len(records)
                yield records

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"{self._state_path} cannot be read: {error}; remove {self.path} and begin anew"
            ) from error
        return state

    def close(self) -> None:
        """Close the rows; they stay."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def remove(self) -> None:
        """Remove the folder: the output file is whole."""
        self.close()
        shutil.rmtree(self.path)


def _record_type(dtype: np.dtype[Any], width: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("embedding", dtype, (width,)),
            ("token_count", "<i4"),
            ("truncated", "?"),
            ("text_digest", "S8"),
        ]
    )


def text_digest(text: str) -> bytes:
    """Eight bytes that tell a text from another."""
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=8).digest()
