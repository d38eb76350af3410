"""What is wanted of one peer, and what has come of it: questions and a statement (rules R3, R7).

It writes requests and reads replies. It sends them through its session, which has the connection.
A failure is a value: an Answer without a result, or a Contact without a statement. What answers
and statements mean is decided by `verdict`, `incident` and `election`.
"""

from __future__ import annotations

from collections.abc import Callable

from dmonitor.base import clock, log
from dmonitor.core.model import BUSY, Answer, Contact, Node, Result, Test
from dmonitor.net import protocol
from dmonitor.net.connection import NEVER, Connection
from dmonitor.net.protocol import Greeting, ProtocolError, Question, Refusal, Reply
from dmonitor.net.statement import Interest, PendingStatement

STATEMENT_SECONDS = 5.0  # for a whole statement, from the request or the greeting
# From the question, or from the greeting if that came later. A peer looks twice before it says that
# a test fails: 10 s, a pause of 2 s, and 10 s.
ANSWER_SECONDS = 25.0
CONVERSATION_BYTES = 16_000_000  # of all lines of a peer's; who sends more is hung up on
UNASKED_LIMIT = 300  # answers to questions that were not asked, in one conversation


class Exchange:
    """The questions that one peer has to answer, and the statement that it has to make."""

    def __init__(
        self,
        node: Node,
        connection: Connection,
        clock: Callable[[], float],
        *,
        send: Callable[[bytes], None],
        end: Callable[[str], None],
        answered: Callable[[Test, Answer], None],
        contacted: Callable[[Contact], None],
    ) -> None:
        """Want nothing yet.

        `clock` is that of the times in statements. `send` sends lines to the peer, `end` ends the
        session for a reason; `answered` and `contacted` are told what has come.
        """
        self.peer = Greeting("", "")  # the last greeting of the peer
        self.cloned = False  # another machine answers with this node's own id
        self.interest = Interest(lambda _: True, ())
        self.wants_statement = False
        self.asked: dict[Test, float] = {}  # with the deadline of each answer, oldest first
        self._node = node
        self._connection = connection
        self._clock = clock
        self._send = send
        self._end = end
        self._answered = answered
        self._contacted = contacted
        self._statement_deadline = NEVER
        self._pending: PendingStatement | None = None
        self._bytes = 0  # of all lines of this conversation
        self._unanswered: set[Test] = set()  # asked in this conversation, and maybe given up since
        self._unasked = 0  # answers in this conversation to questions that were not asked
        self._was_refused = False  # a line of ours, in this conversation

    @property
    def is_stating(self) -> bool:
        """Whether the peer still has to end the reply to an earlier request for a statement."""
        return self._pending is not None and bool(self._pending.awaited)

    def deadline(self) -> float:
        """Return when the next reply is overdue, in uptime."""
        oldest = next(iter(self.asked.values()), NEVER)
        return min(oldest, self._statement_deadline)

    def give_up_overdue(self, now: float) -> None:
        """Give up the questions, and the statement, that are overdue at `now`."""
        overdue = [test for test, deadline in self.asked.items() if deadline <= now]
        for test in overdue:
            self.no_answer(test, "no answer in time")
        if self._statement_deadline <= now:
            self._no_statement("no statement in time")

    @property
    def is_statement_overdue(self) -> bool:
        """Whether the peer has begun no statement, or not ended it, in time."""
        return self._statement_deadline <= clock.uptime()

    def begin(self) -> None:
        """Send all that is wanted, because the peer has just greeted."""
        if self.wants_statement:
            self.request_statement()
        for test in list(self.asked):
            if self._connection.is_open:  # the line before may have found the peer gone
                self.send_question(test)

    def expect_answer(self, test: Test) -> None:
        """Want an answer for `test`."""
        self.asked[test] = clock.uptime() + ANSWER_SECONDS

    def send_question(self, test: Test) -> None:
        """Ask the peer for `test`."""
        self.expect_answer(test)
        self._unanswered.add(test)
        log.debug("question", peer=self._node.name, test=str(test))
        self._send(protocol.write(Question(test)))

    def request_statement(self) -> None:
        """Ask the peer for a statement."""
        self._statement_deadline = clock.uptime() + STATEMENT_SECONDS
        if self._connection.is_last_greeting:
            self._statement_deadline = self._connection.step_deadline()
        self._pending = PendingStatement(self.peer, self.interest, self._clock)
        self._send(b"".join(map(protocol.write, self._pending.awaited)))

    def take_line(self, line: bytes) -> None:
        """Take a line of the peer's; raise ProtocolError if it makes no sense.

        If that is a line of a statement, nothing is raised: only the statement is given up.
        """
        self._bytes += max(len(line), protocol.LINE_BYTES)
        if self._bytes > CONVERSATION_BYTES:
            self._end(f"it sends more than {CONVERSATION_BYTES} bytes")
            return
        is_reply = line.lstrip().startswith((b"answer ", b"error "))
        if self._pending and self._pending.awaited and not is_reply:
            self._take_statement_line(self._pending, line)
        elif len(line) >= protocol.ANSWER_BYTES:
            raise ProtocolError(f"a line of over {protocol.ANSWER_BYTES} bytes")
        else:
            self._take_reply(protocol.read_reply(line))

    def reset(self) -> None:
        """Forget what was half said, because the connection is closed."""
        self._pending = None
        self._bytes = 0
        self._unanswered.clear()
        self._unasked = 0
        self._was_refused = False

    def fail(self, reason: str) -> None:
        """Say that nothing of what is wanted will come, for `reason`."""
        self._no_statement(reason)
        for test in list(self.asked):
            self.no_answer(test, reason)

    def no_answer(self, test: Test, reason: str) -> None:
        """Say that the answer for `test` will not come, for `reason`."""
        self._answer(test, Answer(self._node, self.peer.node_id, reason=reason))

    def _take_statement_line(self, pending: PendingStatement, line: bytes) -> None:
        try:
            requests = pending.take(line)
        except ProtocolError as error:
            self._no_statement(str(error))
            return
        if requests:
            self._send(b"".join(map(protocol.write, requests)))
        statement = pending.complete()
        if statement is None or self._pending is not pending:
            return
        self._pending = None
        self._want_no_statement()
        self._contacted(self._contact()._replace(statement=statement))

    def _want_no_statement(self) -> None:
        self.wants_statement = False
        self._statement_deadline = NEVER

    def _no_statement(self, reason: str) -> None:
        """Want no statement any more; if one was wanted, say that it will not come."""
        was_wanted = self.wants_statement
        self._want_no_statement()
        if self._pending:
            self._pending.abandon()
        if was_wanted:
            log.debug("not-greeted", peer=self._node.name, reason=reason)
            self._contacted(self.failed_contact(reason))

    def failed_contact(self, reason: str) -> Contact:
        """Return what comes of a greeting that has failed for `reason`."""
        unable, cloned = self._connection.unable, self.cloned
        return self._contact()._replace(reason=reason, unable=unable, cloned=cloned)

    def _contact(self) -> Contact:
        return Contact(self._node, self.peer.node_id, self.peer.incarnation)

    def _take_reply(self, reply: Reply | Refusal) -> None:
        if isinstance(reply, Refusal):
            self._take_refusal(reply)
            return
        was_asked = reply.test in self._unanswered
        self._unanswered.discard(reply.test)
        if reply.test not in self.asked:
            self._take_unexpected(reply.test, was_asked=was_asked)
        elif reply.reason == protocol.BUSY:
            self.no_answer(reply.test, BUSY)
        else:
            answer = Answer(self._node, self.peer.node_id, _result_of(reply), reply.age)
            self._answer(reply.test, answer)

    def _take_unexpected(self, test: Test, *, was_asked: bool) -> None:
        """Pass over an answer for `test`: nobody waits for it any more, or it was never asked."""
        log.debug("unexpected-answer", peer=self._node.name, test=str(test))
        if was_asked:
            return
        self._unasked += 1
        if self._unasked > UNASKED_LIMIT:
            self._end(f"it sends more than {UNASKED_LIMIT} answers that nobody asked for")

    def _take_refusal(self, refusal: Refusal) -> None:
        reason, text = refusal
        if not self._was_refused:
            log.warning("question-refused", peer=self._node.name, reason=reason, text=text)
        self._was_refused = True
        if self._pending and self._pending.awaited:  # an older daemon, which makes no statement
            self._pending.refuse()
            self._connection.unable = True
            self._no_statement(f"it refused to: {reason}")
        else:
            self._end(f"it refused a question: {reason} ({text})")

    def _answer(self, test: Test, answer: Answer) -> None:
        self.asked.pop(test, None)
        self._answered(test, answer)


def _result_of(reply: Reply) -> Result:
    """Return the result in `reply`; if it has no text, the reason is the text."""
    if reply.result.text:
        return reply.result
    text = reply.reason
    if reply.reason == protocol.NOT_CONFIGURED:
        text = f"it has no such test ({reply.reason})"
    return reply.result._replace(text=text)
