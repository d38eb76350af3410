"""What this node owes to which address: tried, taken, refused (rule R6).

Pure. `election` decides which node tells an incident; `telling` hands the mails over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.core import circles
from dmonitor.core.incident import owed as owed_by
from dmonitor.core.model import Incident, Kind, Notification, Test
from dmonitor.core.wants import Audience

_Key = tuple[str, Kind, str]  # of a notification: the incident's id, the kind, the address
# What is told, to whichever address: the incident's id, the kind, and the circle that is told.
_Told = tuple[str, Kind, str]
_Handed = tuple[str, Kind]  # what was handed to an address: the incident's id, and the kind

Mail = Sequence[Notification]  # all that one address gets at one moment


class Taken(NamedTuple):
    """What follows from a mail that was taken."""

    # The kinds that were told for the first time, by the incident's id and the circle.
    told: dict[tuple[str, str], list[Kind]]
    # What this node owes from now on, because it has told it to one address and not to all.
    owed: tuple[Notification, ...]


def owing(
    incidents: Iterable[Incident],
    left: Iterable[Notification],
    audience: Audience,
    is_quiet: Callable[[Incident], bool],
) -> set[str]:
    """Return the ids of the incidents that owe something to all, or are `left` over for some.

    What nobody wants, and what `is_quiet` may not be mailed now, is not owed now.
    """
    owed = []
    for incident in incidents:
        for view in circles.views(incident):
            if owed_by(view) and audience.is_told(view):
                owed.append(incident)
    owed += [notification.incident for notification in left]
    return {incident.id for incident in owed if not is_quiet(incident)}


class Outbox:
    """The notifications that this node has told to some address, and still owes to others."""

    def __init__(self, left: Iterable[Notification], audience: Audience) -> None:
        self._owed = _by_key(left)
        self._audience = audience
        # What was handed to each address in this round, by hand-over, whatever came of it.
        self._tried: dict[str, list[set[_Handed]]] = {}
        # What was handed to each address and has no outcome yet, by hand-over. It is perhaps
        # taken, so it is not tried.
        self.handing: Mapping[str, Sequence[Collection[_Handed]]] = {}
        # What this node is telling now, and no address has taken yet, by what it tells and by its
        # address: once one address has taken it, it is owed to all others, and looked for no more.
        self._untold: dict[_Told, dict[str, Notification]] = {}

    def drop_removed(
        self, addresses: Collection[str], tests: Collection[Test]
    ) -> list[Notification]:
        """Drop what is owed to a removed address, or about a removed test; return it.

        Nor is an address owed what it does not want any more.
        """
        dropped = []
        addresses = frozenset(addresses)
        for notification in list(self._owed.values()):
            address, test = notification.address, notification.incident.test
            if address in addresses and test in tests and self._audience.wants(address, test):
                continue
            del self._owed[_key(notification)]
            dropped.append(notification)
        return dropped

    def renew(
        self, find: Callable[[Collection[str]], Sequence[Incident]], at_work: Collection[str]
    ) -> tuple[list[Notification], list[Notification]]:
        """Owe no alert any more whose incident another node has told to be over.

        That node tells the address all, or owes it the recovery. If it is not among those `at_work`
        this node owes that instead: the address may not have got it. If it has, the mail has the
        same Message-ID. Return the alerts, and the recoveries.
        """
        self._refresh(find)
        alerts = [owed for owed in self._owed.values() if self._is_told_to_be_over(owed)]
        recoveries = []
        for alert in alerts:
            if alert.incident.recovery not in at_work:
                recoveries.append(alert._replace(kind=Kind.RECOVERY))
        for notification in self._owed.values():
            if notification.kind is Kind.ACK and not notification.incident.is_open:
                alerts.append(notification)  # nobody has to be on it any more
        for notification in alerts:
            del self._owed[_key(notification)]
        self._owed |= _by_key(recoveries)
        return alerts, recoveries

    def _is_told_to_be_over(self, notification: Notification) -> bool:
        """Return whether this is an alert, and another node has told that its incident is over."""
        incident = notification.incident
        if notification.kind is not Kind.ALERT or not incident.recovery:
            return False
        return (incident.id, Kind.RECOVERY, notification.address) not in self._owed

    def make_mails(
        self,
        due: Iterable[Notification],
        find: Callable[[Collection[str]], Sequence[Incident]],
        is_quiet: Callable[[Incident], bool],
        resting: Mapping[str, float] = MappingProxyType({}),
    ) -> dict[str, list[Notification]]:
        """Return one mail for each address: what is `due` now, and what it is still owed.

        `find` returns the incidents that have one of the ids, as they are known now. A notification
        is tried once in a round, so the mails count as tried from now on. An alert that is left
        over waits for its recovery if the incident is closed: one mail tells both. The `resting`
        addresses have refused what they are still owed, at these times: they get it with the next
        news, or later.
        """
        candidates = list(due)
        self.tell(candidates, find)
        for notification in self._owed.values():
            if self._is_untold(notification) or is_quiet(notification.incident):
                continue
            if self._is_told_to_be_over(notification):
                continue  # the next round renews it
            if notification.kind is Kind.ACK and not notification.incident.is_open:
                continue
            if not self._waits_for_recovery(notification):
                candidates.append(notification)
        mails: dict[str, list[Notification]] = {}
        for notification in candidates:
            if self._may_be_tried(notification):
                mails.setdefault(notification.address, []).append(notification)
        for address, refused_at in resting.items():
            if address in mails and not self._has_news(mails[address], refused_at):
                del mails[address]
        for address, mail in mails.items():
            self._note_tried(address, mail)
        return mails

    def tell(
        self, due: Iterable[Notification], find: Callable[[Collection[str]], Sequence[Incident]]
    ) -> None:
        """Note what this node tells now: it owes it to each address once one has taken it."""
        self._refresh(find)
        self._untold = {}
        for notification in due:
            self._untold.setdefault(_told(notification), {})[notification.address] = notification

    def _waits_for_recovery(self, notification: Notification) -> bool:
        """Return whether this alert comes after the end, and the recovery is still to be told."""
        incident = notification.incident
        if notification.kind is not Kind.ALERT or Kind.RECOVERY not in owed_by(incident):
            return False
        return not self._is_untold(notification._replace(kind=Kind.RECOVERY))

    def _is_untold(self, notification: Notification) -> bool:
        """Return whether this node is telling it now, and no address has taken it yet."""
        return notification.address in self._untold.get(_told(notification), ())

    def _refresh(self, find: Callable[[Collection[str]], Sequence[Incident]]) -> None:
        """Take each incident as it is known now: its ids may have grown, or two may be one."""
        owed = []
        for notification in self._owed.values():
            circle = self._audience.circle_of(notification.address)
            incident = find(notification.incident.ids)[0]
            owed.append(notification._replace(incident=circles.view_for(incident, circle)))
        self._owed = _by_key(owed)

    def _may_be_tried(self, notification: Notification) -> bool:
        """Return whether `notification` was not tried in this round, and does not come too early.

        No recovery goes out before its alert: if that was refused in this round, both wait. If that
        has no outcome yet, it waits also if another node has told the alert meanwhile: the address
        may still get it here.
        """
        address = notification.address
        if address not in self._tried and address not in self.handing:
            return True
        if self._was_tried(notification, notification.kind):
            return False
        if self._was_handed(notification, Kind.ALERT, self.handing):
            return False
        if not self._was_handed(notification, Kind.ALERT, self._tried):
            return True
        alert = notification._replace(kind=Kind.ALERT)
        owes_alert = self._is_untold(alert) or _key(alert) in self._owed
        return not owes_alert

    def _was_tried(self, notification: Notification, kind: Kind) -> bool:
        """Return whether `kind` of it was handed to this address, in this round or still."""
        handed = self._was_handed(notification, kind, self._tried)
        return handed or self._was_handed(notification, kind, self.handing)

    @staticmethod
    def _was_handed(
        notification: Notification, kind: Kind, handed: Mapping[str, Sequence[Collection[_Handed]]]
    ) -> bool:
        """Return whether `kind` of the incident is among what was `handed` to this address.

        The incident may have had fewer ids then.
        """
        for told in handed.get(notification.address, ()):
            for incident_id in notification.incident.ids:
                if (incident_id, kind) in told:
                    return True
        return False

    def _note_tried(self, address: str, mail: Mail) -> None:
        tried = set()
        for notification in mail:
            for incident_id in notification.incident.ids:
                tried.add((incident_id, notification.kind))
        self._tried.setdefault(address, []).append(tried)

    def _has_news(self, mail: Mail, refused_at: float) -> bool:
        """Return whether `mail` tells something that its address has not refused yet.

        What a circle is told, each node tries in its turn, and so each has its rests.
        """
        for notification in mail:
            if not self._is_untold(notification):
                if not notification.refusals:
                    return True
            elif not notification.incident.circle or notification.since > refused_at:
                return True
        return False

    def tells(self, mail: Mail) -> bool:
        """Return whether `mail` tells something that no address has taken yet."""
        return any(map(self._is_untold, mail))

    def take(self, mail: Mail) -> Taken:
        """Note that `mail` was taken.

        What it told counts as told. This node owes it from now on to each address that has not
        got it, and to the hooks that want it.
        """
        told: dict[tuple[str, str], list[Kind]] = {}
        owed: list[Notification] = []
        for notification in mail:
            self._owed.pop(_key(notification), None)
            if not self._is_untold(notification):
                continue
            others = self._untold.pop(_told(notification))
            del others[notification.address]
            incident = notification.incident
            told.setdefault((incident.id, incident.circle), []).append(notification.kind)
            owed += others.values()
            if names.is_hook(notification.address):
                continue
            for hook in self._audience.hooks(incident.test, incident.circle):
                if hook not in others:
                    owed.append(notification._replace(address=hook, refusals=0))
        self._owed |= _by_key(owed)
        return Taken(told, tuple(owed))

    def refuse(self, mail: Mail) -> tuple[Notification, ...]:
        """Note that `mail` was refused; return what was owed before, with one more refusal.

        What it was to tell is not owed by this node: the next round decides who tells it.
        """
        refused = []
        for notification in mail:
            if _key(notification) in self._owed:
                refused.append(notification._replace(refusals=notification.refusals + 1))
        self._owed |= _by_key(refused)
        return tuple(refused)

    def owed_addresses(self) -> set[str]:
        """Return the addresses that are owed anything."""
        return {notification.address for notification in self._owed.values()}

    def owes_untried_hooks(self) -> bool:
        """Return whether a hook is owed something that was not handed to it in this round."""
        for notification in self._owed.values():
            is_hook = names.is_hook(notification.address)
            if is_hook and not self._was_tried(notification, notification.kind):
                return True
        return False


def _key(notification: Notification) -> _Key:
    return notification.incident.id, notification.kind, notification.address


def _told(notification: Notification) -> _Told:
    return notification.incident.id, notification.kind, notification.incident.circle


def _by_key(notifications: Iterable[Notification]) -> dict[_Key, Notification]:
    return {_key(notification): notification for notification in notifications}
