"""The root folder itself is the package ``steadyedit``; its inner packages are found, not listed."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildPackage(build_py):
    """Leaves this script, which lies in the root like any module, out of the package."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if entry[:2] != ("steadyedit", "setup")]


# Recipes of the toy models stay in the repository.
inner = find_packages(exclude=["tests", "tests.*", "toyworld.training", "toyworld.training.*"])
setup(packages=["steadyedit", *(f"steadyedit.{name}" for name in inner)], cmdclass={"build_py": BuildPackage})
