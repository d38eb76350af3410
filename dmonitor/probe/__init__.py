"""What the plugins share: look-up, connection, time, and the word that a plugin says.

A plugin starts with `python3 -IS`, and a round starts hundreds of them. So this room imports only
modules that cost next to nothing: `_socket` instead of `socket`, no `re`, `enum` or `typing`. It
imports nothing else of dmonitor, and nothing of dmonitor imports it.
"""
