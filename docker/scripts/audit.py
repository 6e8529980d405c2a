"""Looks the locked packages up among known vulnerabilities, by pip-audit.

    audit.py [--required] [--osv-url URL] [REQUIREMENTS...]     without files: all that are locked

Nothing is installed and nothing resolved: the versions are those of the files. A service that
cannot be reached, or does not know of a vulnerability that it must know (so that its silence means
nothing), is passed over; where none is left, that is said, and the audit is skipped.

Exit codes: 0 nothing known, or skipped; 1 a package has a known vulnerability; 2 skipped with
--required, or wrong usage.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
LOCKED = (*sorted((ROOT / "docker" / "requirements").glob("*.txt")),
          ROOT / "model_repository" / "requirements.txt")  # fmt: skip
CANARY = "urllib3==1.26.4"
"""It has known vulnerabilities (CVE-2021-33503 for one)."""
_TIMEOUT_S = 20


def main() -> int:
    """Audit; return the exit code."""
    parser = argparse.ArgumentParser(prog="audit.py", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="REQUIREMENTS")
    parser.add_argument("--required", action="store_true", help="fail where no service answers")
    parser.add_argument("--osv-url", help="ask this service alone, by OSV's protocol")
    options = parser.parse_args()
    services = [["--vulnerability-service", name] for name in ("osv", "pypi")]
    if options.osv_url:
        services = [["--vulnerability-service", "osv", "--osv-url", options.osv_url]]
    pins = locked_packages(options.files)
    reasons = []
    for service in services:
        reason = useless(service)
        if reason is None:
            return report(ask(service, pins))
        reasons.append(f"{service[1]}: {reason}")
    sys.stderr.write(f"audit SKIPPED, {len(pins)} packages not looked up: {'; '.join(reasons)}\n")
    return 2 if options.required else 0


def locked_packages(files: list[Path]) -> list[str]:
    """`name==version` of all packages, each once."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in files or LOCKED)
    pins = set(re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", text, re.MULTILINE))
    if not files:
        lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
        pins |= {
            f"{package['name']}=={package['version']}"
            for package in lock["package"]
            if "registry" in package["source"]
        }
    return sorted(pins)


def useless(service: list[str]) -> str | None:
    """Why a service's silence would mean nothing; None if it knows what it must."""
    found = ask(service, [CANARY])
    if isinstance(found, str):
        return found
    if not any(package.get("vulns") for package in found):
        return f"does not know the vulnerabilities of {CANARY}"
    return None


def ask(service: list[str], pins: list[str]) -> list[dict[str, Any]] | str:
    """What pip-audit says of packages, or its last words where it failed."""
    found: list[dict[str, Any]] = []
    while pins:
        # It takes one version of a package at a time.
        batch = {pin.partition("==")[0]: pin for pin in pins}
        pins = [pin for pin in pins if pin not in batch.values()]
        answer = _ask_once(service, list(batch.values()))
        if isinstance(answer, str):
            return answer
        found += answer
    return found


def _ask_once(service: list[str], pins: list[str]) -> list[dict[str, Any]] | str:
    with tempfile.TemporaryDirectory() as folder:
        requirements, answer = Path(folder) / "locked.txt", Path(folder) / "answer.json"
        requirements.write_text("\n".join(pins) + "\n", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner",
             "off", "--timeout", str(_TIMEOUT_S), "--format", "json", "--output", str(answer),
             *service, "--requirement", str(requirements)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        try:
            return list(json.loads(answer.read_text(encoding="utf-8"))["dependencies"])
        except (OSError, ValueError, KeyError):
            return (done.stderr.strip().splitlines() or ["no answer"])[-1]


def report(packages: list[dict[str, Any]] | str) -> int:
    """Say what was found."""
    if isinstance(packages, str):
        sys.stderr.write(f"the audit broke off: {packages}\n")
        return 2
    wrong = [package for package in packages if package.get("vulns")]
    skipped = [package for package in packages if package.get("skip_reason")]
    for package in wrong:
        for known in package["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no version"
            names = ", ".join([known["id"], *known["aliases"]])
            sys.stdout.write(f"{package['name']} {package['version']}: {names}; fixed in {fixed}\n")
    for package in skipped:
        sys.stderr.write(f"{package['name']} was not looked up: {package['skip_reason']}\n")
    sys.stdout.write(
        f"{len(packages) - len(skipped)} packages looked up, {len(wrong)} with known "
        f"vulnerabilities, {len(skipped)} not looked up\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
