"""dmonitor: a distributed monitor that mails only what at least two nodes see.

The package's shape and its rules are in doc/design.md; `check` and `dmonitord` are the two programs.
"""

__version__ = "0.1.0"
