"""dmonitor: a distributed monitor that mails only what at least two nodes see.

The programs are `check`, `dmonitord` and `command`; doc/design.md has the shape and the rules.
"""

__version__ = "0.2.0"
