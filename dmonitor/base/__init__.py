"""What every room may use: names and their grammar, the log, the user, paths, the command line."""
