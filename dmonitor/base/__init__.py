"""Names and their grammar, the log, the user, the paths, the command line: what every room may use."""
