"""The build's entry: the packages. All else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # "twisted.plugins" is listed by name: it is a namespace of Twisted's own, and
    # find_packages() must not see (and claim) anything else below twisted/.
    packages=[*find_packages(include=["wingsd", "wingsd.*"]), "twisted.plugins"],
    package_data={"wingsd": ["py.typed"]},
    zip_safe=False,
)
