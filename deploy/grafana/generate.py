"""Write the dashboards' JSON from `listeners.py`, `capacity.py` and `replica.py`.

``python deploy/grafana/generate.py`` writes it; with ``--check`` it says which files have drifted, and fails.
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
    """Every file to write, with its text."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {HERE / f"{page.name}.json": encoder.encode(built(page).build()) + "\n" for page in DASHBOARDS}


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file has drifted")
    check: bool = parser.parse_args().check
    drifted = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in drifted.items():
        print(f"{'drifted' if check else 'written'}: {path}")
        if not check:
            path.write_text(text)
    sys.exit(1 if check and drifted else 0)


if __name__ == "__main__":
    main()
