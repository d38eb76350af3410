"""The options that mean the same for every program; loaded only where a program was given some, for argparse takes its time."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import Any, NoReturn

from dmonitor import __version__
from dmonitor.base import paths


class _Parser(argparse.ArgumentParser):
    """An argument parser that ends with the usage status of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that knows --config, --state, --verbose and --version; what they are by default is `program.Chosen`'s."""
    result = _Parser(prog=program, description=description, allow_abbrev=False)
    add: Any = result.add_argument
    add("--config", metavar="DIR", type=_directory, help=f"default: {paths.CONFIG}")
    add("--state", metavar="DIR", type=_directory, help=f"default: {paths.STATE}")
    add(
        "--run",
        dest="run_dir",
        metavar="DIR",
        type=_directory,
        help=f"for when the state cannot be written; default: {paths.RUN}",
    )
    add("-v", "--verbose", action="store_true", help="log every step, on stderr too")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return result


def _directory(text: str) -> str:
    path = str(pathlib.Path(text).absolute())
    if not path.isprintable():
        raise argparse.ArgumentTypeError("unprintable characters in a path")
    return path
