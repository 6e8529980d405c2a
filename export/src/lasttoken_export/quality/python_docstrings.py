"""Docstrings of Python's standard library as a retrieval set: first line query, rest document.

Real technical prose that lies on every machine that can run the exporter, so that the gate of an
export needs no network. It differs a little between versions of Python: the digest says which text
a figure was taken on.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lasttoken_export.errors import SourceUnavailable
from lasttoken_export.quality.retrieval_set import RetrievalSet, distinct_pairs

_MODULES = (
    "argparse", "ast", "asyncio", "cgitb", "codecs", "collections", "concurrent", "contextlib",
    "ctypes", "curses", "difflib", "email", "functools", "gettext", "hashlib", "html", "http",
    "importlib", "inspect", "ipaddress", "json", "logging", "mailbox", "multiprocessing", "os",
    "pathlib", "pdb", "pickletools", "random", "shutil", "socket", "sqlite3", "statistics",
    "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "tkinter", "traceback",
    "typing", "unittest", "urllib", "uuid", "venv", "warnings", "weakref", "wsgiref", "xml",
    "xmlrpc", "zipfile", "zoneinfo",
)  # fmt: skip
"""Named, so that a distribution's additions do not get in."""
_DOCUMENT_CHARACTERS = range(100, 501)
_QUERY_CHARACTERS = range(20, 151)


@cache
def python_set(library: Path | None = None) -> RetrievalSet:
    """Return the set; nothing is imported, the sources are parsed.

    Args:
        library: Folder of the standard library; None for this interpreter's.

    Raises:
        SourceUnavailable: The sources are not there.
    """
    folder = library or Path(sysconfig.get_path("stdlib"))
    queries, documents = distinct_pairs(list(_docstrings(folder)), source_name="python")
    if len(queries) < 2:
        raise SourceUnavailable(
            f"{folder} holds no docstrings: this Python came without the sources of its library; "
            "give a file of pairs, or use the set 'debian'"
        )
    return RetrievalSet(
        name="python",
        source=f"docstrings of the standard library of Python {platform.python_version()}",
        queries=queries,
        documents=documents,
    )


def _docstrings(library: Path) -> Iterator[tuple[str, str, list[str]]]:
    for module in _MODULES:
        files = [library / f"{module}.py", *sorted((library / module).rglob("*.py"))]
        for file in files:
            if "test" in file.parts or "tests" in file.parts or not file.is_file():
                continue
            name = str(file.relative_to(library))
            for node in ast.walk(ast.parse(file.read_bytes(), filename=name)):
                if not isinstance(
                    node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
                ):
                    continue
                head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
                query, document = " ".join(head.split()), " ".join(rest.split())
                if len(query) in _QUERY_CHARACTERS and len(document) in _DOCUMENT_CHARACTERS:
                    yield f"{name}:{getattr(node, 'name', '')}:{query}", query, [document]
