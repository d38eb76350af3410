"""What the operator writes: the files in /etc/dmonitor, and what they mean on this machine."""
