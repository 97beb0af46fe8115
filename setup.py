"""Build hook: a wheel or source archive carries the commit and the build time it was made from."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist


def write_stamp(package: Path) -> None:
    """Write _build.py into a copy of the package; an isolated build lacks the root on sys.path."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from tychod.version import write_build_module

    write_build_module(package)


class BuildWithStamp(build_py):
    """Writes _build.py next to the built modules, never into the checkout."""

    def run(self) -> None:
        """Copy the modules, then write the stamp; an editable install keeps asking git."""
        super().run()
        if not self.editable_mode:
            write_stamp(Path(self.build_lib) / "tychod")


class SourceWithStamp(sdist):
    """Writes _build.py into the source archive, which has no git to ask later."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the tree as always, then write the stamp."""
        super().make_release_tree(base_dir, files)
        write_stamp(Path(base_dir) / "tychod")


setup(cmdclass={"build_py": BuildWithStamp, "sdist": SourceWithStamp})
