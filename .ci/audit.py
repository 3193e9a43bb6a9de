"""Say what a report of pip-audit found, and how much of it was audited at all: pip-audit itself is silent on that."""

import json
import sys
from pathlib import Path


def summarise(report: dict) -> str:
    """Return a line a vulnerability, and one that counts."""
    packages = report["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in audited
        for fault in package["vulns"]
    ]
    skipped = len(packages) - len(audited)
    missing = f"; {skipped} were not: the database was not reached, or does not know them" if skipped else ""
    return "\n".join([*lines, f"{len(lines)} known vulnerabilities in {len(audited)} audited packages{missing}."])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    if not path.is_file():
        sys.exit("No package was audited: pip-audit could not be installed, or did not reach its database.")
    print(summarise(json.loads(path.read_text(encoding="utf-8"))))
