"""The options that all programs share, so that they mean the same everywhere."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from dmonitor import __version__
from dmonitor.config import DEFAULT_DIRECTORY
from dmonitor.state import DEFAULT_DIRECTORY as DEFAULT_STATE


class _Parser(argparse.ArgumentParser):
    """An argument parser that ends with the usage status of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(os.EX_USAGE, f"{self.prog}: {message}\n")


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that knows --config, --state, --verbose and --version."""
    result = _Parser(prog=program, description=description, allow_abbrev=False)
    add: Any = result.add_argument
    add("--config", metavar="DIR", type=_directory, default=DEFAULT_DIRECTORY, help="default: %(default)s")
    add("--state", metavar="DIR", type=_directory, default=DEFAULT_STATE, help="default: %(default)s")
    add("-v", "--verbose", action="store_true", help="log every step, on stderr too")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return result


def _directory(text: str) -> Path:
    path = Path(text).absolute()
    if not str(path).isprintable():
        raise argparse.ArgumentTypeError("unprintable characters in a path")
    return path
