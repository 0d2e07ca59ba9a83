"""Generate the dashboards' JSON from `listeners.py`, `capacity.py` and `replica.py`.

``python deploy/grafana/generate.py`` writes the files. With ``--check`` it writes nothing, lists the files that are out
of date, and exits with status 1 if there are any.
"""

import argparse
import sys
from pathlib import Path

from capacity import CAPACITY
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from listeners import LISTENERS
from panels import Dashboard, built
from replica import REPLICA

HERE = Path(__file__).parent
DASHBOARDS: tuple[Dashboard, ...] = (LISTENERS, CAPACITY, REPLICA)


def files() -> dict[Path, str]:
    """All files with their new text."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {HERE / f"{page.name}.json": encoder.encode(built(page).build()) + "\n" for page in DASHBOARDS}


def main() -> None:
    """Write the files, or compare them with ``--check``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check: bool = parser.parse_args().check
    drifted = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in drifted.items():
        print(f"{'out of date' if check else 'written'}: {path}")
        if not check:
            path.write_text(text)
    sys.exit(1 if check and drifted else 0)


if __name__ == "__main__":
    main()
