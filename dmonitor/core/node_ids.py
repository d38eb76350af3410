"""Which node id each line of nodes.txt has, and whether two machines have one.

Pure. One machine may stand in nodes.txt at several lines, and a node's state may be copied. A node
that lies may take another one's id. What `health` says of that is not decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from dmonitor.core.model import Contact, Judgement

SHARED = ""  # in the place of the node id of a line that is one machine with other lines
THIS_NODE = "this node"  # where lines of nodes.txt are named


class NodeIds:
    """The node ids that this node has heard in a round, and those that it knew before."""

    def __init__(
        self,
        node_id: str,
        contacts: Sequence[Contact],
        judgements: Iterable[Judgement],
        known: Mapping[str, str],
    ) -> None:
        """Take what was heard in greetings and answers.

        `node_id` is that of this node, and `known` is what `learn` found in the last round.
        """
        self._known = known
        self._contacts = contacts
        # The incarnations that were heard of each other node id, each with a line that has it.
        self._incarnations: dict[str, dict[str, str]] = {}
        for contact in contacts:
            if contact.incarnation and contact.node_id != node_id:
                by_incarnation = self._incarnations.setdefault(contact.node_id, {})
                by_incarnation[contact.incarnation] = contact.node.name
        self._lines = self._lines_by_id(node_id, judgements)

    def _lines_by_id(self, node_id: str, judgements: Iterable[Judgement]) -> dict[str, set[str]]:
        """Return the lines of nodes.txt at which each node id was heard, except those of copies."""
        lines = {node_id: {THIS_NODE}}
        heard = [(each.node_id, each.node) for each in self._contacts if not each.cloned]
        for judgement in judgements:
            heard += [(answer.node_id, answer.node) for answer in judgement.answers[1:]]
        for heard_id, node in heard:
            if heard_id:
                lines.setdefault(heard_id, set()).add(node.name)
        for heard_id, by_incarnation in self._incarnations.items():
            if len(by_incarnation) > 1:
                lines.pop(heard_id, None)
        return lines

    def copies(self) -> Iterator[list[str]]:
        """Yield the lines of machines that have one id, and so are copies of each other."""
        of_this_node = [contact.node.name for contact in self._contacts if contact.cloned]
        if of_this_node:
            yield [THIS_NODE, *of_this_node]
        for by_incarnation in self._incarnations.values():
            if len(by_incarnation) > 1:
                yield list(by_incarnation.values())

    def taken(self) -> Iterator[set[str]]:
        """Yield the lines that answer with one id, and of which one had an id for itself."""
        for lines in self._lines.values():
            if len(lines) > 1 and self._had_alone(lines):
                yield lines

    def _had_alone(self, lines: Iterable[str]) -> set[str]:
        """Return the node ids that any of `lines` had for itself before this round."""
        return {self._known.get(line, SHARED) for line in lines} - {SHARED}

    def learn(self, listed: Collection[str]) -> dict[str, str]:
        """Return the node id that each of the `listed` lines of nodes.txt has had for itself.

        It is SHARED for a line that is one machine with other lines, and nothing is known of a line
        that was never heard. Nothing that a node states tells another name of one machine from a
        node that repeats all that this one states. So a line that had an id for itself is not
        believed to be the machine of another line, until it is removed from nodes.txt for a round.
        A line that was never heard is, after one round; otherwise who lists a machine twice would
        never hear the end of it.
        """
        learnt = {line: node_id for line, node_id in self._known.items() if line in listed}
        for node_id, lines in self._lines.items():
            for line in lines - {THIS_NODE}:
                if len(lines) > 1:
                    if self._had_alone(lines) <= {node_id}:
                        learnt[line] = SHARED
                # What is another line's is not believed, although that one may be silent now.
                elif learnt.get(line) != SHARED and node_id not in learnt.values():
                    learnt[line] = node_id
        return learnt


def owners(known: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the line of nodes.txt that has each node id for itself, of what `learn` has found."""
    return {node_id: line for line, node_id in known if node_id != SHARED}
