"""Print the lowest version of each requirement that setup.py admits, as constraints for pip.

    python tests/lowest.py cpu,demo,test

torch keeps its version of constraints.txt: package indexes have older ones only with several GB of CUDA libraries. Its
lowest version follows from its own history: 2.10 has `varlen_attn`, 2.11 gave it `window_size`.
"""

import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
KEPT = {"torch"}


def metadata() -> dict[str, Any]:
    """The arguments with which setup.py calls `setup`."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def requirements(*extras: str) -> list[Requirement]:
    """What setup.py requires by itself and for `extras`."""
    settings = metadata()
    texts = sum((settings["extras_require"][extra] for extra in extras), settings["install_requires"])
    return [Requirement(text) for text in texts]


def tried() -> dict[str, str]:
    """Versions of constraints.txt by normalised name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (Requirement(line) for line in lines if line and not line.startswith("#"))
    return {normalised(pin.name): next(iter(pin.specifier)).version for pin in pins}


def normalised(name: str) -> str:
    return name.lower().replace("_", "-")


def lowest(requirement: Requirement) -> str:
    """The version that `requirement` admits at least."""
    (version,) = [bound.version for bound in requirement.specifier if bound.operator in (">=", "==")]
    return version


if __name__ == "__main__":
    oldest, here = metadata()["python_requires"].removeprefix(">="), "{}.{}".format(*sys.version_info)
    if here != oldest:
        sys.exit(f"error: this is Python {here}, but the lowest versions are built for {oldest} only; use that one")
    for requirement in requirements(*sys.argv[1].split(",")):
        version = tried()[requirement.name] if requirement.name in KEPT else lowest(requirement)
        print(f"{requirement.name}=={version}")
