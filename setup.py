"""Package dmonitor for pip and for Debian's dh-python."""

import re
from pathlib import Path

from setuptools import find_packages, setup

version = re.search(
    r'__version__ = "(.+)"', Path("dmonitor/__init__.py").read_text(encoding="utf-8")
)

setup(
    name="dmonitor",
    version=version[1],
    description="Distributed monitor that mails only what at least two nodes see",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["dmonitor", "dmonitor.*"]),
    scripts=["bin/dmonitor", "bin/dmonitor-check", "bin/dmonitord"],
    python_requires=">=3.11",
    license="GPL-2.0-or-later",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: System :: Monitoring",
        "Topic :: System :: Networking :: Monitoring",
    ],
    install_requires=["python-daemon>=2.3", "lockfile>=0.12"],
)
