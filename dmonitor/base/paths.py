"""Where the programs find their files, unless an option says otherwise."""

CONFIG = "/etc/dmonitor"
STATE = "/var/lib/dmonitor"
RUN = "/run/dmonitor"  # keeps what was told while the state cannot be written
