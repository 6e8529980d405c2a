"""The command ``lasttoken-export``: results to stdout, progress to stderr.

``lasttoken-export MODEL`` exports; ``lasttoken-export verify REPOSITORY/MODEL`` compares an export
with fp32, and ``lasttoken-export verify MODEL --golden`` with published scores.

Exit codes: 0 exported, 1 refused or failed, 2 wrong usage, 130 interrupted, 143 terminated; either
leaves nothing behind. Environment: LASTTOKEN_CACHE is the folder of packaged weights
(``~/.cache/lasttoken``).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lasttoken_export.commands.export_arguments import export_options, export_parser
from lasttoken_export.commands.verify_arguments import verify_parser
from lasttoken_export.errors import ExportError, InvalidOption


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verify = words[:1] == ["verify"]
    options = verify_parser().parse_args(words[1:]) if verify else export_parser().parse_args(words)
    cache = os.environ.get("LASTTOKEN_CACHE")
    cache_folder = Path(cache) if cache else None
    try:
        with _sigterm_like_ctrl_c():
            return _run(options, cache_folder, verify=verify)
    except InvalidOption as error:
        print(f"lasttoken-export: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"lasttoken-export: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that is read-only or no folder
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"lasttoken-export: {where}{error.strerror or error}; {_WAYS_OUT[verify]}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except _Terminated:
        return 143


_WAYS_OUT = {
    False: "free space, or choose a folder that can be written to: --output, --calibration-folder, "
    "or LASTTOKEN_CACHE in the environment",
    True: "free space, leave the card as it is (--no-write), or choose a folder that can be "
    "written to: LASTTOKEN_CACHE in the environment",
}
"""Of the commands, by whether it is ``verify``, where the operating system refuses."""


def _run(options: argparse.Namespace, cache_folder: Path | None, *, verify: bool) -> int:
    # Imported behind the arguments: what builds graphs takes seconds to import, and neither --help
    # nor a wrong option should.
    if verify:
        from lasttoken_export.commands.verify import run_verify

        return run_verify(options, cache_folder)
    chosen = export_options(options, cache_folder)
    from lasttoken_export.commands.export import run_export

    return run_export(options, chosen, cache_folder)


class _Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt no Exception, so that nothing mistakes it for one."""


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Unwind on SIGTERM, so that what was begun is cleaned up; once, so that it is to the end."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # ignored, or the caller's own
        return

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
