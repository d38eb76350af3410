"""The command line options that mean the same for every program.

Only a program that was given options loads this module, because argparse takes milliseconds to
load.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import NoReturn

from dmonitor import __version__
from dmonitor.base import paths


class _Parser(argparse.ArgumentParser):
    """An argument parser that ends with the usage status of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser of --version and of the options in `cli.Options`, which has the defaults."""
    parser = _Parser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="DIR", type=_directory, help=f"default: {paths.CONFIG}")
    parser.add_argument("--state", metavar="DIR", type=_directory, help=f"default: {paths.STATE}")
    parser.add_argument(
        "--run",
        dest="run_dir",
        metavar="DIR",
        type=_directory,
        help=f"for when the state cannot be written; default: {paths.RUN}",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log every step, on stderr too"
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _directory(text: str) -> str:
    path = str(pathlib.Path(text).absolute())
    if not path.isprintable():
        raise argparse.ArgumentTypeError("unprintable characters in a path")
    return path
