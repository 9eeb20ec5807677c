"""Builds the gRPC code before the package is collected; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))


class BuildWithProtos(build_py):
    """`build_py`, with `serving.v1` generated first (for editable installs too)."""

    def run(self) -> None:
        """Generate, then build."""
        from serving.build_protos import build

        build(ROOT)
        if "serving.v1" not in self.packages:
            self.packages.append("serving.v1")
        super().run()


setup(cmdclass={"build_py": BuildWithProtos})
