"""The arguments of ``lasttoken-export verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lasttoken_export.commands.quality_arguments import add_accept_quality
from lasttoken_export.quality.quality_options import SETS, VERIFY_PAIRS

GOLDEN_OPTIONS = frozenset({"repository", "name"})
"""What goes with ``--golden``, and with nothing else."""


def verify_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands behind ``verify``."""
    parser = argparse.ArgumentParser(
        prog="lasttoken-export verify",
        description="Compare an exported model with fp32 on held-out text and write the figures "
        "into its card; or, with --golden, with the scores that its authors published. Exit code "
        "1: a gate is missed.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL",
                        help="REPOSITORY/MODEL, the folder of the ensemble; with --golden a "
                        "catalogue name")  # fmt: skip
    parser.add_argument("--set", default="debian", metavar="SET", dest="retrieval_set",
                        help=f"retrieval set: {', '.join(SETS)} or a file of JSON lines with query "
                        "and document (%(default)s)")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=VERIFY_PAIRS, metavar="N",
                        help="pairs of it; 0: all (%(default)s)")  # fmt: skip
    parser.add_argument("--checkpoint", metavar="SOURCE",
                        help="hub id, folder or GGUF file that the model was exported from; not "
                        "needed for one of the catalogue")  # fmt: skip
    parser.add_argument("--like", metavar="NAME", help="as at export")
    parser.add_argument("--reference", type=Path, metavar="REPOSITORY/MODEL",
                        help="an fp32 export of the same model instead")  # fmt: skip
    add_accept_quality(parser)
    parser.add_argument("--no-write", action="store_true", help="leave the card as it is")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--golden", action="store_true",
                        help="compare with the published scores of example texts")  # fmt: skip
    parser.add_argument("--repository", type=Path, metavar="DIR",
                        help="with --golden: Triton model repository that holds it")  # fmt: skip
    parser.add_argument("--name", metavar="TRITON_NAME",
                        help="with --golden: name of the ensemble (the model's)")  # fmt: skip
    return parser
