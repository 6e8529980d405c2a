"""The code blocks of the documentation, for tests that run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENTED_URL = "127.0.0.1:8001"


def code_blocks(page: str, languages: set[str]) -> list[tuple[str, str]]:
    """Language and code of the fenced blocks of a page that are in one of the languages."""
    blocks, language, lines = [], None, []
    for line in (DOCS / page).read_text().splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line[3:].strip(), []
        else:
            blocks.append((language, "\n".join(lines)))
            language = None
    assert language is None, f"{page} has an open code block"
    return [block for block in blocks if block[0] in languages]


def run_block(language: str, code: str, *, url: str, folder: Path) -> None:
    """Run one block in a process of its own, with the address of a server of this machine.

    Args:
        language: `python` or `sh`.
        code: The block.
        url: Takes the place of the documented address.
        folder: Where it runs.
    """
    code = code.replace(DOCUMENTED_URL, url)
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "LASTTOKEN_URL": url,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-c", code] if language == "python" else ["sh", "-euc", code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
