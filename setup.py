"""The root folder itself is the package ``steadyedit``; its inner packages are found, not listed."""

from setuptools import find_packages, setup

inner = find_packages(exclude=["tests", "tests.*"])
setup(packages=["steadyedit", *(f"steadyedit.{name}" for name in inner)])
