"""List what an environment or an image holds, with versions and licences.

python -m infra.licences > licences.csv

Python's packages name their licences themselves; Debian's have theirs in a file of their own each,
which is named.
"""

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

COLUMNS = ("kind", "name", "version", "licence")
UNSAID = "not said"

Row = tuple[str, str, str, str]


def python_packages() -> Iterator[Row]:
    """Go through the installed Python packages in alphabetical order."""
    found = {each.metadata["Name"].lower(): each for each in metadata.distributions()}
    for name in sorted(found):
        yield "python", found[name].metadata["Name"], found[name].version, licence(found[name])


def licence(package: metadata.Distribution) -> str:
    """Say a package's licence: its SPDX expression, else its classifiers, else its own words."""
    said = package.metadata
    if expression := _first(package, "License-Expression"):
        return expression
    classified = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line.startswith("License :: ") and not line.endswith(" :: OSI Approved")
    ]
    # Some packages put the whole text of their licence into the field for its name.
    words = _first(package, "License").strip().splitlines()
    return "; ".join(classified) or (words[0] if words else UNSAID)


def _first(package: metadata.Distribution, field: str) -> str:
    return next(iter(package.metadata.get_all(field) or []), "")


def debian_packages() -> Iterator[Row]:
    """Go through Debian's installed packages, where there are any."""
    if shutil.which("dpkg-query") is None:
        return
    form = "${binary:Package}\t${Version}\n"
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={form}"], check=True, capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        name, _, version = line.partition("\t")
        place = f"/usr/share/doc/{name.partition(':')[0]}/copyright"
        yield "debian", name, version, place


def main() -> None:
    """Write the list as CSV on stdout."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    for rows in (python_packages(), debian_packages()):
        table.writerows(rows)


if __name__ == "__main__":
    main()
