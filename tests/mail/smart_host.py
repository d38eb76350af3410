#!/usr/bin/python3 -B
"""A smart host for `mail-matrix`: smart_host.py DIRECTORY ADDRESS.

It is as DIRECTORY/mode says, which may change at any time, and writes each event as a line of JSON
to DIRECTORY/events. A mail counts as taken at its final dot: what the client is told later, or
whether it still listens, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import json
import re
import sys
import time
from pathlib import Path

PORT = 25
UP, REFUSING, DOWN, HANGING = "up", "refusing", "down", "hanging"
SLOW_BANNER, SLOW_REPLY, LATE_REPLY = "slow-banner", "slow-reply", "late-reply"
REFUSED = "refused@example.com"  # who does not exist while it is REFUSING
BANNER_AFTER = {SLOW_BANNER: 20.0}  # seconds
REPLY_AFTER = {SLOW_REPLY: 20.0, LATE_REPLY: 240.0}  # seconds after the final dot
_LOOK_EVERY = 0.1  # seconds


class SmartHost:
    """What listens, and what it writes down."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address

    def mode(self) -> str:
        return (self.directory / "mode").read_text().strip()

    def note(self, event: str, **facts: str | float) -> None:
        with open(self.directory / "events", "a") as file:
            file.write(json.dumps({"at": time.monotonic(), "event": event, **facts}) + "\n")

    async def run(self) -> None:
        """Listen, except while the mode is DOWN."""
        server = None
        while True:
            is_wanted = self.mode() != DOWN
            if is_wanted and server is None:
                server = await asyncio.start_server(self.converse, self.address, PORT)
                self.note("listens")
            if server is not None and not is_wanted:
                server.close()
                server = None
                self.note("is down")
            await asyncio.sleep(_LOOK_EVERY)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        mode = self.mode()
        self.note("connected", mode=mode)
        with contextlib.suppress(OSError):
            if mode == HANGING:
                await reader.read()  # until the client ends it
            else:
                await asyncio.sleep(BANNER_AFTER.get(mode, 0.0))
                await _Conversation(self, reader, writer).run()
        self.note("closed", mode=mode, after=time.monotonic() - began)
        writer.close()


class _Conversation:
    """One client's mails."""

    def __init__(
        self, host: SmartHost, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.host = host
        self.reader = reader
        self.writer = writer
        self.recipients: list[str] = []

    async def say(self, line: str) -> None:
        self.writer.write(f"{line}\r\n".encode())
        await self.writer.drain()

    async def run(self) -> None:
        await self.say("220 smart.test ESMTP")
        while line := await self.reader.readline():
            text = line.decode("latin-1").strip()
            verb = text.partition(" ")[0].upper()
            if verb == "EHLO":
                await self.say("250-smart.test\r\n250 8BITMIME")
            elif verb in ("HELO", "NOOP"):
                await self.say("250 smart.test")
            elif verb in ("MAIL", "RSET"):
                self.recipients = []
                await self.say("250 well")
            elif verb == "RCPT":
                await self.recipient(text)
            elif verb == "DATA":
                await self.data()
            elif verb == "QUIT":
                await self.say("221 bye")
                return
            else:
                await self.say("502 not here")

    async def recipient(self, text: str) -> None:
        match = re.search(r"<(.*?)>", text)
        address = match[1].lower() if match else ""
        if address == REFUSED and self.host.mode() == REFUSING:
            self.host.note("refused", address=address)
            await self.say("550 5.1.1 nobody of that name")
            return
        self.recipients.append(address)
        await self.say("250 well")

    async def data(self) -> None:
        if not self.recipients:
            await self.say("503 for whom?")
            return
        await self.say("354 go on")
        lines = []
        while (line := await self.reader.readline()).rstrip(b"\r\n") != b".":
            if not line:
                return
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
        for address in self.recipients:
            self.host.note(
                "taken",
                address=address,
                message_id=str(mail["Message-ID"]),
                subject=str(mail["Subject"]),
                content=mail.as_string(),
            )
        await asyncio.sleep(REPLY_AFTER.get(self.host.mode(), 0.0))
        await self.say("250 taken")


if __name__ == "__main__":
    asyncio.run(SmartHost(Path(sys.argv[1]), sys.argv[2]).run())
