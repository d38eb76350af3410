"""Decide. Pure: values and `now` go in, values come out; no clock, socket, file or process."""
