"""Exceptions for which every program has an exit status of its own."""


class StateError(Exception):
    """The state cannot be used; the text names the file and the reason."""
