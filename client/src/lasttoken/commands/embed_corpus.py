"""`lasttoken embed-corpus`: Parquet in, Parquet with vectors out."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lasttoken.commands.command import Command, say
from lasttoken.commands.connection import add_security_arguments, security_options
from lasttoken.commands.only_model import only_model
from lasttoken.commands.stop_signals import sigterm_as_ctrl_c
from lasttoken.errors import InvalidInput
from lasttoken.progress import Progress

if TYPE_CHECKING:
    from lasttoken.corpus import CorpusReport
    from lasttoken.corpus.run import Runner

_ANY_RAY = "the cluster of RAY_ADDRESS, or one that is started on this machine"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="Parquet file, folder, or pattern of names in a folder (such as 'data/*.parquet'): a "
        "path, s3://, gs://, or any URL that fsspec knows",
    )  # fmt: skip
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="path or URL; part-*.parquet go there"
    )
    parser.add_argument("--column", metavar="NAME", help="column of texts (default text)")
    parser.add_argument(
        "--columns", metavar="NAME,NAME", help="columns to keep beside the vectors (default: all)"
    )
    parser.add_argument(
        "--vector-column", metavar="NAME", help="column to write (default embedding)"
    )
    parser.add_argument("--dtype", choices=("float32", "float16"), help="default: float32")
    parser.add_argument(
        "--dimensions", type=int, metavar="N", help="cut vectors to so many, and normalise"
    )
    parser.add_argument(
        "--force-dimensions", action="store_true",
        help="also to a size that the model was not trained for",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true",
        help="continue what is in the folder; what is not given is as it was given then",
    )  # fmt: skip
    parser.add_argument(
        "--rows-per-part", type=int, metavar="N", help="default: 128 MB of vectors, at most 32,768"
    )
    parser.add_argument(
        "--compression", choices=("zstd", "snappy", "lz4", "none"),
        help="of the parts (default zstd)",
    )  # fmt: skip
    parser.add_argument(
        "--on-refused", choices=("fail", "null"),
        help="a text that the server refuses ends the run or gets a null (default fail)",
    )  # fmt: skip

    parser.add_argument("--model", help="Triton's name of the ensemble (default: the only one)")
    parser.add_argument("--prompt-name", help="one of the model's prompts, such as document")
    parser.add_argument("--instruction", help="what the texts are searched for")
    parser.add_argument(
        "--url", action="append", metavar="HOST:PORT",
        help="Triton's gRPC service; repeat it for several servers of the same model "
        "(LASTTOKEN_URL; default 127.0.0.1:8001)",
    )  # fmt: skip
    add_security_arguments(parser)
    parser.add_argument(
        "--server-wait", type=float, default=300.0, metavar="SECONDS",
        help="how long to go on while no server answers (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-in-flight", type=int, default=64, metavar="N",
        help="most requests at a time with each server (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help=f"spread the work over a Ray cluster (without an address: {_ANY_RAY})",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N", help="of --ray (default: two for each server)"
    )
    parser.add_argument("--json", action="store_true", help="the report as a JSON object")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.workers is not None and arguments.ray is None:
        raise InvalidInput("--workers is for --ray; in one process --max-in-flight bounds the load")
    bar = _Bar()
    with sigterm_as_ctrl_c() as stop:
        try:
            report = _embed(arguments, bar)
        except KeyboardInterrupt:
            bar.end()
            say(f"interrupted: {_what_is_done(bar, arguments)}")
            return stop.exit_code
        except BaseException:
            bar.end()
            raise
    bar.end()
    _tell(report, arguments)
    return 0


def _embed(arguments: argparse.Namespace, bar: _Bar) -> CorpusReport:
    # pyarrow takes half a second that no other command needs
    from lasttoken.corpus import CorpusOptions, embed_corpus, run_here

    runner: Runner = run_here
    if arguments.ray is not None:
        from lasttoken.corpus.ray_runner import RayRunner

        runner = RayRunner(address=arguments.ray or None, workers=arguments.workers)
    urls = arguments.url or os.environ.get("LASTTOKEN_URL", "127.0.0.1:8001").split(",")
    security = security_options(arguments)
    settings = _settings(arguments)
    if "model" not in settings:
        settings["model"] = only_model({"url": urls[0], **security})
    options = CorpusOptions(
        inputs=tuple(arguments.inputs),
        output=arguments.output,
        urls=tuple(urls),
        server_wait_s=arguments.server_wait,
        max_in_flight=arguments.max_in_flight,
        resume=arguments.resume,
        **settings,
        **security,
    )
    return embed_corpus(options, runner=runner, progress=bar)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the vectors and is given, or was given to the run that is continued."""
    columns = arguments.columns
    said = {
        "model": arguments.model,
        "text_column": arguments.column,
        "columns": None if columns is None else tuple(columns.split(",")),
        "vector_column": arguments.vector_column,
        "vector_dtype": arguments.dtype,
        "dimensions": arguments.dimensions,
        "force_dimensions": arguments.force_dimensions or None,
        "prompt_name": arguments.prompt_name,
        "instruction": arguments.instruction,
        "rows_per_part": arguments.rows_per_part,
        "compression": arguments.compression,
        "on_refused": arguments.on_refused,
    }
    given = {name: value for name, value in said.items() if value is not None}
    if not arguments.resume:
        return given
    from lasttoken.corpus.resumed_settings import resumed_settings

    return resumed_settings(arguments.output, given)


def _what_is_done(bar: _Bar, arguments: argparse.Namespace) -> str:
    if bar.finished:
        return (
            f"{bar.finished} of {bar.rows} rows are done, in the finished parts in "
            f"{arguments.output}; --resume goes on with them"
        )
    # A run that goes on keeps what says what it is; workers of Ray may still finish a part.
    nothing = not arguments.resume and arguments.ray is None
    return "no part is finished" + (", and nothing is left behind" if nothing else "")


class _Bar:
    """The progress bar, which begins when the rows have been counted.

    Attributes:
        rows: Rows of the run.
        finished: Rows in finished parts.
    """

    rows = 0
    finished = 0
    _progress: Progress | None = None

    def begin(self, *, rows: int, done: int) -> None:
        self.rows, self.finished = rows, done
        self._progress = Progress(rows, done=done, unit="rows")

    def advance(self, rows: int) -> None:
        if self._progress is not None:
            self._progress.advance(rows)

    def finish(self, rows: int) -> None:
        self.finished += rows

    def end(self) -> None:
        if self._progress is not None:
            self._progress.close()


def _tell(report: CorpusReport, arguments: argparse.Namespace) -> None:
    counts = report.counts
    made = counts.rows - report.resumed_rows
    rate = made / report.seconds if report.seconds > 0 else 0.0
    if arguments.json:
        result = {
            "output": arguments.output,
            "parts": report.parts,
            **asdict(counts),
            "resumed_parts": report.resumed_parts,
            "resumed_rows": report.resumed_rows,
            "seconds": round(report.seconds, 3),
            "rows_per_s": round(rate, 1),
        }
        print(json.dumps(result))
        return
    parts = _counted(report.parts, "part")
    print(f"{_counted(counts.rows, 'row')} in {parts} in {arguments.output}")
    say(f"{_counted(made, 'row')} in {report.seconds:.1f} s, {rate:,.0f} rows/s")
    for words, number in (
        ("rows that were there already", report.resumed_rows),
        ("rows without a text, with a null vector", counts.nulls),
        ("texts that the server refused, with a null vector", counts.refused),
        ("texts longer than the model's maximum, which were cut", counts.truncated),
    ):
        if number:
            say(f"{words}: {number:,}")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


EMBED_CORPUS = Command(
    name="embed-corpus",
    summary="embed a column of Parquet files into Parquet files with vectors",
    add_arguments=_add_arguments,
    run=_run,
)
