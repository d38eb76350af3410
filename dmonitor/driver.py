"""What carries out the effects of a round: plugins, peers, the state, sendmail, stderr.

It decides nothing: the script in `round` says what is done next. `check` starts it, under the lock.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dmonitor import observer
from dmonitor.base import clock, cron, log, names
from dmonitor.config import silences
from dmonitor.config.configuration import Configuration
from dmonitor.config.problems import Problems, errors
from dmonitor.config.recipients import outside_hours
from dmonitor.config.tests import confirmations
from dmonitor.core import codec, effects, model, round, round_log
from dmonitor.core.model import Incident, Notification
from dmonitor.store import durations, identity, lock, state, taken

if TYPE_CHECKING:
    from dmonitor.execution import delivery

MAIL_LINES = 100  # of one mail that the log has, a line for each notification


class Clock(NamedTuple):
    """The clocks of one round."""

    stopwatch: clock.Stopwatch  # since the round began
    now: Callable[[], float]  # returns the time of this node's clock

    def elapsed(self) -> float:
        """Return the seconds since the round began."""
        return self.stopwatch.elapsed()

    def minute(self, at: float) -> int:
        """Return the minutes from the epoch to a time of this node's clock, by the wall clock."""
        return int(self._wall(at) // 60)

    def text(self, at: float) -> str:
        """Return a time of this node's clock as text, in the time zone of this machine."""
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._wall(at)))

    def _wall(self, at: float) -> float:
        return at - self.now() + time.time()


class Driver:
    """Carries out the effects of one round."""

    def __init__(
        self,
        configuration: Configuration,
        store: state.Store,
        *,
        directory: str,
        run_dir: str | None = None,
        stopwatch: clock.Stopwatch,
        once: bool = False,
        waited: float = 0.0,
        woken: bool = False,
    ) -> None:
        """Start the round that began with `stopwatch`, after it has `waited` some seconds.

        `directory` is the state directory, and `run_dir` the run directory if there is one. With
        `once` the peers are greeted only once. With `woken` nothing is tested: the round only tells
        what the peers hold.
        """
        self._configuration = configuration
        self._store = store
        self._clock = Clock(stopwatch, store.clock.now)
        node_id = identity.make(directory)
        self._observer = observer.Observer(
            configuration,
            node_id,
            store.lookups(),
            self._clock,
            functools.partial(lock.holder, directory, "dmonitord"),
            greets_only=woken,
        )
        store.remember(configuration.addresses, self._observer.around.addresses)
        settings = configuration.settings
        self._round_config = effects.RoundConfig(
            node_id=node_id,
            tests=self._observer.tests,
            tests_digest=self._observer.tests_digest,
            addresses=configuration.addresses,
            wants=configuration.wants,
            outside_hours=outside_hours(configuration.wants, time.time()),
            silences=tuple(
                map(store.clock.from_wall, silences.holding(configuration.silences, time.time()))
            ),
            acknowledgements=tuple(
                map(
                    store.clock.acknowledged_from_wall,
                    silences.acknowledgements(configuration.silences),
                )
            ),
            nodes=configuration.nodes,
            diverted=self._observer.around.diverted,
            own_names=self._observer.around.my_names,
            complete=configuration.complete,
            mistakes=errors(configuration.problems),
            quorum=settings.quorum,
            confirm=settings.confirm,
            flapping=settings.flapping,
            remind=settings.remind,
            troubles=settings.troubles,
            once=once,
            tests_taken=frozenset() if woken else taken.take(directory),
            waited=waited,
            stores=not store.failed,
            rhythms=configuration.rhythms,
            confirmations=confirmations(configuration.tests),
            behind=configuration.behind,
        )
        self._woken = woken
        # This node's name, once the round has recognised it.
        self._name = ""
        # The hand-over that is under way, and the outcomes of its mails.
        self._hand_over: effects.HandOver | None = None
        self._deliveries: Iterator[tuple[str, delivery.Delivery | None]] = iter(())
        self._kept_files: set[str] = set()  # the names of the hand-overs that are stored
        self._directories = [run_dir, directory] if run_dir else [directory]
        self._state_dir, self._run_dir = directory, run_dir
        # How long looks took before this round, if that is now to go into the line of a day.
        self._ended_slot: durations.Ended | None = None

    def drive(self) -> effects.RoundEnd:
        """Take the round; return what it leaves."""
        script = self._script()
        answer = None
        try:
            while True:
                try:
                    effect = script.send(answer)
                except StopIteration as end:
                    round_end: effects.RoundEnd = end.value
                    self._store_durations()
                    return round_end
                answer = self._do(effect)
        finally:
            self._observer.close()

    def _script(self) -> round.RoundScript:
        config, memory = self._round_config, self._store.memory()
        self._kept_files = _files(memory.node)
        if self._woken:
            return round.run_woken(config, memory, self._clock, _note, state.fresh_id)
        return round.run_round(config, memory, self._clock, _note, state.fresh_id)

    def _do(self, effect: effects.Effect) -> object:
        """Carry out one effect; return what the script is to be sent."""
        match effect:
            case effects.Observe():
                observation = self._observer.observe(effect)
                self._name = observation.me.name
                self._keep_durations(observation)
                return observation
            case effects.Greet():
                return self._observer.greet(effect)
            case effects.Wake(node_ids):
                self._observer.wake(node_ids)
            case effects.Rehearse():
                return self._observer.rehearse(effect)
            case effects.Examine():
                return self._examine()
            case effects.Save():
                return self._save(effect)
            case effects.HandOver():
                self._configuration = self._configuration.with_sender(self._name)
                return self._next_outcome(effect)
            case effects.LookAfter(handing):
                return self._look_after(handing, _log_late)
            case effects.TellTroubles():
                return self._tell_troubles(effect)
            case effects.LookAfterTroubles(handing):
                return self._look_after(handing, _log_late_trouble)
            case effects.Wait(seconds):
                clock.wait(seconds)
            case effects.Complain(text, is_new):
                log.complain(text)
                if is_new and not cron.is_known_to_mail():
                    return not self._mail_trouble(text)
        return None

    def _keep_durations(self, observation: effects.Observation) -> None:
        """Keep how long each look of this round took, unless the machine slept meanwhile."""
        if self._woken or self._clock.elapsed() > effects.HARD_LIMIT:
            return
        results = {}
        for test, judgement in observation.judgements.items():
            own_result = judgement.answers[0].result
            if own_result:
                results[test] = own_result
        now = self._clock.now()
        self._ended_slot = durations.keep(self._run_dir, results, self._observer.tests, now)

    def _store_durations(self) -> None:
        """Write the line of a day, if it has a new point; a round has told everything before."""
        if self._ended_slot:
            now = self._clock.now()
            durations.add(self._state_dir, self._ended_slot, self._observer.tests, now)

    def _usual_durations(self, hand_over: effects.HandOver) -> dict[model.Test, float]:
        """Return how long looks usually take at the tests that a mail says TIMEOUT of."""
        told = itertools.chain(*hand_over.mails.values())
        incidents = [*(notification.incident for notification in told), *hand_over.latest]
        timed_out = {incident.test for incident in incidents if incident.has_timed_out}
        if not timed_out:
            return {}
        return durations.usual(self._state_dir, timed_out, self._clock.now())

    def _examine(self) -> tuple[str, ...]:
        """Return what is wrong with plugins, hooks and sendmail."""
        from dmonitor.config import programs

        problems = Problems()
        programs.examine_programs(self._configuration, problems)
        return errors(problems)

    def _save(self, save: effects.Save) -> bool:
        """Store `save`; forget the files of the hand-overs that it knows no more."""
        is_stored = self._store.save(save)
        if save.node:
            before, self._kept_files = self._kept_files, _files(save.node)
            if before - self._kept_files:
                from dmonitor.execution import keeper

                keeper.Places(self._directories).forget(self._kept_files)
        return is_stored

    def _look_after(
        self,
        handing: Iterable[model.Handing | model.TroubleHanding],
        log_ended: Callable[[str, float, delivery.Delivery | None], None],
    ) -> dict[tuple[str, str], bool | None]:
        """Return which mails of earlier hand-overs have ended, and whether they were taken."""
        from dmonitor.execution import keeper

        places = keeper.Places(self._directories)
        ended: dict[tuple[str, str], bool | None] = {}
        for hand_over in handing:
            name, seconds = hand_over.known_as, self._clock.now() - hand_over.since
            for address, outcome in keeper.look_after(places, name, hand_over.addresses).items():
                ended[name, address] = outcome.taken if outcome else None
                log_ended(address, seconds, outcome)
        return ended

    def _next_outcome(self, hand_over: effects.HandOver) -> tuple[str, bool | None]:
        """Wait for the next of the mails; return its address, and whether it was taken.

        The first call for a HandOver starts all its mails. None says that one goes on.
        """
        if hand_over is not self._hand_over:
            self._hand_over = hand_over
            self._deliveries = self._start(hand_over)
        address, outcome = next(self._deliveries)
        _log_outcome(address, hand_over.mails[address], outcome)
        return address, outcome.taken if outcome else None

    def _start(self, hand_over: effects.HandOver) -> Iterator[tuple[str, delivery.Delivery | None]]:
        """Hand over one mail to each address; return the outcomes, each as soon as it is known."""
        from dmonitor.core import mail
        from dmonitor.execution import keeper

        sender = self._configuration.settings.sender
        secret = b""
        if self._configuration.keys is not None:
            secret = self._configuration.keys.cluster_secret()
        shift = self._store.clock.to_wall()
        to_wall = _incidents_shifted(shift)
        composer = mail.Composer(
            node=self._name,
            now=time.time(),
            sender=sender,
            latest=map(to_wall, hand_over.latest),
            behind=hand_over.behind,
            secret=secret,
            usual=self._usual_durations(hand_over),
        )
        letters = {}
        for address, owed in hand_over.mails.items():
            told = []
            for kind, incident, _, since, refusals in owed:
                moved = to_wall(incident)
                told.append(Notification(kind, moved, address, since + shift, refusals))
            if names.is_hook(address):
                content, facts = composer.facts(told)
                letters[address] = hook_letter(self._configuration, address, content, facts)
            else:
                content = composer.mail(told)
                letters[address] = mail_letter(self._configuration, address, content)
        handed_over_by = observer.HANDED_OVER_BY
        if self._woken:
            handed_over_by = observer.WOKEN_HANDED_OVER_BY
        patience = handed_over_by - self._clock.elapsed()
        places = keeper.Places(self._directories)
        return keeper.hand_over(letters, places, hand_over.name, patience=patience)

    def _tell_troubles(self, telling: effects.TellTroubles) -> dict[str, bool | None]:
        """Hand over mails about troubles; return what is known of them without waiting for it."""
        from dmonitor.core import mail
        from dmonitor.execution import keeper

        self._configuration = self._configuration.with_sender(self._name)
        secret = b""
        if self._configuration.keys is not None:
            secret = self._configuration.keys.cluster_secret()
        shift = self._store.clock.to_wall()
        letters = {}
        for address, told in telling.mails.items():
            news = []
            for each in told:
                trouble = codec.shift_times(each.trouble, lambda at: at + shift)
                news.append(each._replace(trouble=trouble))
            if names.is_hook(address):
                content, facts = mail.compose_trouble_facts(news, node=self._name, secret=secret)
                letters[address] = hook_letter(self._configuration, address, content, facts)
            else:
                content = mail.compose_troubles(
                    news,
                    address,
                    sender=self._configuration.settings.sender,
                    node=self._name,
                    now=time.time(),
                    secret=secret,
                )
                letters[address] = mail_letter(self._configuration, address, content)
        places = keeper.Places(self._directories)
        outcomes = dict(keeper.hand_over(letters, places, telling.name, patience=0.0))
        for address, outcome in outcomes.items():
            if outcome is not None:
                _log_trouble_mailed(address, outcome)
        return {address: each.taken if each else None for address, each in outcomes.items()}

    def _mail_trouble(self, text: str) -> bool:
        """Mail a trouble of this node to each address; return whether one of them took it.

        Return True, too, if there is no address: then there is nobody to wait for.
        """
        from dmonitor.core import mail
        from dmonitor.execution import delivery

        self._configuration = self._configuration.with_sender(self._name)
        sender = self._configuration.settings.sender
        letters = {}
        for address in self._configuration.addresses:
            if not names.is_hook(address):
                content = mail.compose_trouble(
                    text, address, sender=sender, node=self._name, now=time.time()
                )
                letters[address] = mail_letter(self._configuration, address, content)
        is_told = not letters
        patience = observer.HANDED_OVER_BY - self._clock.elapsed()
        for address, outcome in delivery.send(letters, patience=patience):
            _log_trouble_mailed(address, outcome)
            is_told = is_told or outcome.taken
        return is_told


def _incidents_shifted(seconds: float) -> Callable[[Incident], Incident]:
    """Return a function that moves the times of an incident; it does so once for each."""
    shifted: dict[tuple[str, str], Incident] = {}

    def shift(incident: Incident) -> Incident:
        key = incident.id, incident.circle
        if key not in shifted:
            shifted[key] = codec.shift_times(incident, lambda at: at + seconds)
        return shifted[key]

    return shift


def hook_letter(
    configuration: Configuration, address: str, content: bytes, facts: Mapping[str, str]
) -> delivery.Letter:
    """Return what the hook `address` is given."""
    from dmonitor.execution import delivery

    return delivery.Letter((configuration.hook(address),), content, facts)


def mail_letter(configuration: Configuration, address: str, content: bytes) -> delivery.Letter:
    """Return what sendmail is given for `address`."""
    from dmonitor.execution import delivery

    settings = configuration.settings
    return delivery.mail(content, address, sendmail=settings.sendmail, sender=settings.sender)


def _files(memory: effects.NodeMemory) -> set[str]:
    """Return the names of the files of all hand-overs without an outcome."""
    mails = {each.known_as for each in memory.handing}
    return mails | {each.known_as for each in memory.trouble_handing}


def _log_trouble_mailed(address: str, outcome: delivery.Delivery | None) -> None:
    """Log what became of a mail about troubles."""
    if outcome is None:
        text = "its process is gone: it may have been taken"
        log.warning("trouble-mailed", address=address, taken="perhaps", reason=text)
        return
    write = log.info if outcome.taken else log.error
    taken = "yes" if outcome.taken else "no"
    write("trouble-mailed", address=address, taken=taken, reason=outcome.text or None)


def _log_late_trouble(address: str, _: float, outcome: delivery.Delivery | None) -> None:
    _log_trouble_mailed(address, outcome)


def _log_late(address: str, seconds: float, outcome: delivery.Delivery | None) -> None:
    """Log what became of a mail for which its round did not wait."""
    event, write = "late-refused", log.error
    if outcome is None:
        event = "hand-over-lost"
    elif outcome.taken:
        event, write = "late-handed-over", log.info
    text = outcome.text if outcome else "its process is gone: it may have been taken"
    write(event, address=address, seconds=int(seconds), reason=text or None)


def _log_outcome(
    address: str, mail: Sequence[Notification], outcome: delivery.Delivery | None
) -> None:
    """Log what became of each notification in a mail; of very many, how many there are."""
    event, write = "refused", log.error
    if outcome is None:
        event, write = "perhaps-taken", log.warning
    elif outcome.taken:
        event, write = "handed-over", log.info

    def note_more(count: int) -> None:
        write(f"more-{event}", address=address, count=count)

    text = outcome.text if outcome else "it takes long: the next rounds look after it"
    for notification in round_log.first_of(mail, MAIL_LINES, note_more):
        write(
            event,
            address=address,
            kind=notification.kind.value,
            test=str(notification.incident.test),
            incident=notification.incident.id,
            reason=text or None,
        )


def _note(level: str, event: str, /, **facts: log.Value) -> None:
    """Log an event at the level of this name."""
    write: Callable[..., None] = getattr(log, level)
    write(event, **facts)
