"""`pytest tests/parity --parity-table FILE` writes what the parity tests measured as a table."""

from pathlib import Path

from parity.reference import FIGURES


def pytest_addoption(parser):
    parser.addoption("--parity-table", type=Path, metavar="FILE", help="write a Markdown table")


def pytest_sessionfinish(session):
    path = session.config.getoption("--parity-table")
    if path is None:
        return
    lines = [
        "| model or architecture | reference | texts | longest, tokens | precision "
        "| 1 - lowest cosine | largest difference |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {f.name} | {f.reference} | {f.texts} | {f.longest} | {f.precision} "
            f"| {f.cosine_distance:.1e} | {f.largest_difference:.1e} |"
            for f in sorted(FIGURES, key=lambda f: (f.precision, f.name))
        ),
    ]
    path.write_text("\n".join(lines) + "\n")
