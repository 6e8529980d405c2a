"""``lasttoken-perf report``: the page, and the README's table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lasttoken_perf.command import Command, say
from lasttoken_perf.errors import MalformedResult
from lasttoken_perf.output_file import check_output, write_output
from lasttoken_perf.report.page import read_results, render_page
from lasttoken_perf.report.readme_table import write_readme

_RESULTS = Path("docs/measurements")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="*", metavar="FILE.json",
                        help="results (docs/measurements/*.json)")  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", default=Path("build/report.html"),
                        help="page to write (%(default)s)")  # fmt: skip
    parser.add_argument("--title", default="lasttoken, measured", help="heading (%(default)s)")
    parser.add_argument("--readme", type=Path, nargs=2, metavar=("README.md", "BENCH.json"),
                        help="only write the README's table, from a result of `bench`")  # fmt: skip


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.readme is not None:
        changed = write_readme(*options.readme)
        print(f"{options.readme[0]}: {'changed' if changed else 'as it was'}")
        return {"what": "the README's table", "changed": changed}
    check_output("--html", options.html)
    paths = options.results or sorted(_RESULTS.glob("*.json"))
    if not paths:
        raise MalformedResult(
            f"there is no result in {_RESULTS}; name the files, or run it in the repository's root"
        )
    page = render_page(read_results(paths), title=options.title)
    write_output(options.html, page)
    say(f"{len(paths)} results, {len(page) / 1e3:.0f} kB")
    print(options.html)
    return {"what": "report", "files": [str(path) for path in paths], "page": str(options.html)}


COMMAND = Command(add_arguments=_add_arguments, run=_run)
