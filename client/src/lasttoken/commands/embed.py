"""`lasttoken embed`: texts in, vectors out, through a running server."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.client import EmbeddingClient
from lasttoken.commands.command import Command, add_server_arguments, say
from lasttoken.commands.connection import connection_options
from lasttoken.commands.only_model import only_model
from lasttoken.commands.stop_signals import sigterm_as_ctrl_c
from lasttoken.embeddings import Embeddings
from lasttoken.errors import InvalidInput
from lasttoken.files.embed_file import TEXTS_PER_REQUEST, FileRun, embed_file, spool
from lasttoken.files.part_folder import PartFolder
from lasttoken.files.text_source import DEFAULT_COLUMN, TextSource, text_lines
from lasttoken.files.vector_file import check_output, json_row
from lasttoken.options import Priority, RetryPolicy
from lasttoken.quantization import OUTPUT_DTYPES

_RETRY = RetryPolicy(max_attempts=6)  # about a second: somebody waits at the terminal
_LINES_A_BLOCK = 256

_EPILOG = """\
exit codes: 0 done; 1 failed: no server, overloaded, out of time, no room;
2 wrong usage: an argument, an input file, or what the server refused;
130 interrupted with Ctrl-C, 143 with SIGTERM: what is done of an --output stays in OUTPUT.part, and
--resume goes on with it.
"""


def _add_embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="default: one text a line of stdin"
    )
    parser.add_argument(
        "--input", type=Path, action="append", default=[], metavar="FILE",
        help="texts of a .txt (one a line), .jsonl, .csv or .parquet; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--column", default=DEFAULT_COLUMN,
        help="column with the texts in .jsonl, .csv and .parquet (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--model", help="Triton's name of the ensemble (default: the only one)")
    parser.add_argument("--prompt-name", help="one of the model's prompts, such as query")
    parser.add_argument("--instruction", help="what the texts are searched for")
    parser.add_argument("--dimensions", type=int, help="cut vectors to so many, and normalise")
    parser.add_argument(
        "--force-dimensions", action="store_true",
        help="also to a size that the model was not trained for",
    )  # fmt: skip
    parser.add_argument("--output-dtype", choices=OUTPUT_DTYPES, default="float32")
    parser.add_argument(
        "--ranges", type=Path, metavar="FILE.npy",
        help="for int8 and uint8: smallest and largest value of each dimension, [2, D]",
    )  # fmt: skip
    parser.add_argument(
        "--priority", choices=("interactive", "bulk"),
        help="default: bulk for --input and --output, interactive otherwise",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write a .npy [n, D], .jsonl or .parquet; default: numbers on stdout, a line a text",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished --output")
    parser.add_argument("--table", action="store_true", help="a table to read, on stdout")
    add_server_arguments(parser)


def _embed(arguments: argparse.Namespace) -> int:
    _check(arguments)
    connection = connection_options(arguments)
    settings = {
        "prompt_name": arguments.prompt_name,
        "instruction": arguments.instruction,
        "dimensions": arguments.dimensions,
        "force_dimensions": arguments.force_dimensions,
        "output_dtype": arguments.output_dtype,
        "ranges": _read_ranges(arguments.ranges),
    }
    if arguments.output is not None:
        return _to_file(arguments, connection, settings)
    texts = _texts(arguments)
    model = _model(arguments, connection)
    with EmbeddingClient(model=model, retry=_RETRY, **connection) as client:
        _to_stdout(client, texts, arguments, settings)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.texts and arguments.input:
        raise InvalidInput("texts are given as arguments and by --input; give one of them")
    if arguments.output is None:
        if arguments.resume:
            raise InvalidInput("--resume goes on with a file; name it with --output")
        if arguments.table and arguments.json:
            raise InvalidInput("--table and --json are two forms of the same; give one")
    else:
        check_output(arguments.output)
        if arguments.table or arguments.json:
            raise InvalidInput(
                "--output is given, whose suffix says the form; it does not go with --json or "
                "--table"
            )
    if not arguments.texts and not arguments.input and sys.stdin.isatty():
        raise InvalidInput("no text: give some as arguments, by --input, or one a line on stdin")


def _texts(arguments: argparse.Namespace) -> Iterable[str]:
    if arguments.input:
        return TextSource(paths=tuple(arguments.input), column=arguments.column).texts()
    return arguments.texts or text_lines(sys.stdin.buffer, "stdin")


def _model(arguments: argparse.Namespace, connection: dict[str, Any]) -> str:
    if arguments.model:
        return str(arguments.model)
    return only_model(connection, timeout_s=arguments.timeout)


def _read_ranges(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return np.load(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--ranges is {str(path)!r}, which cannot be read: {error}") from error


def _to_file(
    arguments: argparse.Namespace, connection: dict[str, Any], settings: dict[str, Any]
) -> int:
    part = PartFolder(arguments.output)
    with sigterm_as_ctrl_c() as stop:
        try:
            return _finish_file(part, arguments, connection, settings)
        except KeyboardInterrupt:
            say(f"interrupted: {part.told()}")
            return stop.exit_code


def _finish_file(
    part: PartFolder,
    arguments: argparse.Namespace,
    connection: dict[str, Any],
    settings: dict[str, Any],
) -> int:
    output: Path = arguments.output
    unfinished = part.rows() > 0
    if unfinished and not arguments.resume:
        raise InvalidInput(
            f"{part.path} is an unfinished run; --resume goes on with it, or remove it"
        )
    if arguments.resume and output.exists() and not unfinished:
        say(f"{output} is finished")
        return 0
    # Asked before the texts are read: a server that is not there is found out at once.
    model = _model(arguments, connection)
    with part.kept_if_it_has_rows():
        paths = tuple(arguments.input) or (spool(iter(_texts(arguments)), part),)
        run = FileRun(
            source=TextSource(paths=paths, column=arguments.column),
            output=output,
            settings=settings,
            timeout_s=arguments.timeout,
            priority=arguments.priority or "bulk",
        )
        with EmbeddingClient(
            model=model,
            on_truncation="ignore",
            max_texts_per_request=TEXTS_PER_REQUEST,
            **connection,
        ) as client:
            result = embed_file(client, run, part)
    _tell_truncated(result.truncated, result.rows - result.resumed)
    resumed = f", {result.resumed} of them from before" if result.resumed else ""
    say(f"wrote ({result.rows}, {result.width}) {arguments.output_dtype} to {output}{resumed}")
    return 0


def _to_stdout(
    client: EmbeddingClient,
    texts: Iterable[str],
    arguments: argparse.Namespace,
    settings: dict[str, Any],
) -> None:
    priority: Priority = arguments.priority or ("bulk" if arguments.input else "interactive")
    if settings["output_dtype"] in ("int8", "uint8") and settings["ranges"] is None:
        texts = list(texts)  # their own ranges need them all
        whole = client.embed_full(texts, timeout_s=arguments.timeout, priority=priority, **settings)
        blocks: Iterator[Embeddings] = iter([whole])
    else:
        texts, sent = itertools.tee(texts)
        blocks = client.embed_blocks(
            sent,
            timeout_s=arguments.timeout,
            priority=priority,
            block_texts=_LINES_A_BLOCK,
            **settings,
        )
    given = iter(texts)
    count = cut = 0
    for block in blocks:
        rows = list(itertools.islice(given, len(block.vectors)))
        if arguments.table and not count:
            print(f"{'TOKENS':>6}  {'VECTOR':<32}  TEXT")
        for line in _lines(rows, block, as_json=arguments.json, as_table=arguments.table):
            print(line)
        count += len(rows)
        cut += int(block.truncated.sum())
    _tell_truncated(cut, count)


def _tell_truncated(cut: int, count: int) -> None:
    if cut:
        say(f"{cut} of {count} texts were longer than the model's maximum and were cut")


def _lines(texts: list[str], block: Embeddings, *, as_json: bool, as_table: bool) -> Iterator[str]:
    for text, vector, tokens, cut in zip(
        texts,
        block.vectors,
        block.token_counts.tolist(),
        block.truncated.tolist(),
        strict=True,
    ):
        if as_json:
            yield json_row(text, vector, tokens, truncated=cut)
        elif as_table:
            first = " ".join(f"{number:.4g}" for number in vector[:3])
            more = f" ... [{len(vector)}]" if len(vector) > 3 else ""
            shown = " ".join(text.split())
            shown = shown if len(shown) <= 40 else f"{shown[:39]}…"
            yield f"{tokens:>5}{'+' if cut else ' '}  {first + more:<32}  {shown}"
        else:  # the shortest that gives the same number
            yield " ".join(str(number) for number in vector)


EMBED = Command(
    name="embed",
    summary="embed texts with a running server",
    add_arguments=_add_embed_arguments,
    run=_embed,
)
