"""The requirements of extras in pyproject.toml, for pip, one a line.

`python tools/requirements.py cuda-toolkit` prints them as they stand, `--lowest` with each lower
bound as a pin.
"""

import argparse
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> None:
    """Prints the requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="+")
    parser.add_argument("--lowest", action="store_true", help="pin the lower bounds")
    arguments = parser.parse_args()
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for extra in arguments.extras:
        for requirement in extras[extra]:
            print(requirement.replace(">=", "==") if arguments.lowest else requirement)


if __name__ == "__main__":
    main()
