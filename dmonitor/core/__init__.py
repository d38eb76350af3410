"""What decides. Pure: values in, values out; `now` is passed in.

No clock, socket, file or process.
"""
