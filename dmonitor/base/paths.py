"""Where the programs find their files unless an option says otherwise."""

CONFIG = "/etc/dmonitor"
STATE = "/var/lib/dmonitor"
RUN = "/run/dmonitor"  # for when the state cannot be written
