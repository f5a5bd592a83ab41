"""The requirements of extras in pyproject.toml, for pip, one a line.

`python tools/requirements.py cuda-toolkit` prints them as they stand, `--lowest` with each lower
bound as a pin. `--build jaxlib` prints what the build requires of a package.
"""

import argparse
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> None:
    """Prints the requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--build", help="a package that the build requires")
    parser.add_argument("--lowest", action="store_true", help="pin the lower bounds")
    arguments = parser.parse_args()
    project = tomllib.loads(PROJECT.read_text())
    extras = project["project"]["optional-dependencies"]
    for requirement in project["build-system"]["requires"]:
        if arguments.build and requirement.startswith(arguments.build):
            print(requirement)
    for extra in arguments.extras:
        for requirement in extras[extra]:
            print(requirement.replace(">=", "==") if arguments.lowest else requirement)


if __name__ == "__main__":
    main()
