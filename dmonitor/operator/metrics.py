"""What `report` says as metrics for Prometheus, for the textfile collector of node_exporter.

Pure. The format is Prometheus' text format:
prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dmonitor import __version__
from dmonitor.base import names
from dmonitor.operator.report import FLAPPING, Facts

_Sample = tuple[Mapping[str, str], float]
_FAILING_HERE = {"OK": 0.0, "FAIL": 1.0, "TIMEOUT": 1.0}
_NAN = float("nan")


def metrics(
    status: Facts, seconds: Mapping[str, float], looks: Mapping[str, float] = MappingProxyType({})
) -> str:
    """Return all metrics of this node.

    `seconds` has times since the epoch: of each test since when it is in its state, by the
    test's name, and of the last round as `last_round`. `looks` has when this node last looked at
    each test.
    """
    families = _Families()
    _add_node(families, status, seconds)
    _add_tests(families, status, seconds)
    _add_looks(families, status, looks)
    return families.text()


class _Families:
    """Metrics as text, in the order in which they are added."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(
        self, name: str, help_text: str, samples: Sequence[_Sample], kind: str = "gauge"
    ) -> None:
        """Add a gauge, or a metric of another kind, with a sample for each set of labels."""
        self._lines.append(f"# HELP dmonitor_{name} {help_text}")
        self._lines.append(f"# TYPE dmonitor_{name} {kind}")
        for labels, value in samples:
            self._lines.append(f"dmonitor_{name}{_labels(labels)} {_number(value)}")

    def add_one(self, name: str, help_text: str, value: float) -> None:
        """Add a gauge with one sample and no label."""
        self.add(name, help_text, [({}, float(value))])

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _add_node(families: _Families, status: Facts, seconds: Mapping[str, float]) -> None:
    node = {"node": status["node"], "version": __version__}
    families.add("info", "Which node and which dmonitor this is.", [(node, 1.0)])
    families.add_one(
        "can_alert",
        "Whether this node can alert: peers, quorum, addresses and rounds are there.",
        status["can_alert"],
    )
    families.add_one(
        "last_round_timestamp_seconds", "When its last round ended.", seconds.get("last_round", 0.0)
    )
    families.add_one("peers", "Other nodes in nodes.txt.", status["peers"])
    families.add_one(
        "peers_reached", "Other nodes that were reached in the last round.", len(status["reached"])
    )
    families.add_one("quorum", "Sites that have to see a test fail.", status["quorum"])
    families.add_one("addresses", "Addresses and hooks that are told.", len(status["addresses"]))
    families.add_one(
        "incidents_owed",
        "Incidents of which something is to be told now and has not been told to everybody.",
        status["owed"],
    )
    families.add_one("state_stored", "Whether its state can be written.", status["stored"])
    families.add_one(
        "configuration_whole", "Whether all of its configuration can be read.", status["whole"]
    )
    troubles: list[_Sample] = [({"kind": trouble["kind"]}, 1.0) for trouble in status["troubles"]]
    families.add("trouble", "What keeps this node from seeing or telling.", troubles)


def _add_tests(families: _Families, status: Facts, seconds: Mapping[str, float]) -> None:
    down: list[_Sample] = []
    flapping: list[_Sample] = []
    failing_here: list[_Sample] = []
    silenced: list[_Sample] = []
    behind: list[_Sample] = []
    acknowledged: list[_Sample] = []
    since: list[_Sample] = []
    flakes: list[_Sample] = []
    for test in status["tests"]:
        labels = {"host": test["host"], "test": test["name"]}
        down.append((labels, float(test["verdict"] == "DOWN")))
        flapping.append((labels, float(test["state"] == FLAPPING)))
        failing_here.append((labels, _FAILING_HERE.get(test["here"], _NAN)))
        silenced.append((labels, float(bool(test["silenced_by"]))))
        behind.append((labels, float(bool(test["behind"]))))
        acknowledged.append((labels, float(bool(test["acknowledged"]))))
        flakes.append((labels, float(test["flakes"])))
        if test["test"] in seconds:
            since.append((labels, seconds[test["test"]]))
    families.add("test_down", "Whether a quorum sees the test fail.", down)
    families.add("test_flapping", "Whether it changes too often.", flapping)
    families.add(
        "test_failing_here",
        "Whether the test fails on this node; NaN if this node cannot tell.",
        failing_here,
    )
    families.add("test_silenced", "Whether nobody is mailed about it.", silenced)
    text = "Whether it is not mailed by itself, because all that it is behind is DOWN."
    families.add("test_behind", text, behind)
    text = "Whether an operator has acknowledged its incident."
    families.add("test_acknowledged", text, acknowledged)
    families.add(
        "test_state_since_timestamp_seconds", "Since when the test is in this state.", since
    )
    families.add(
        "flakes_total",
        "How often the test failed on this node, and passed when it was looked at again.",
        flakes,
        "counter",
    )


def _add_looks(families: _Families, status: Facts, looks: Mapping[str, float]) -> None:
    """Add when this node last looked at each test, how often, and how long the last look took."""
    times: list[_Sample] = []
    durations: list[_Sample] = []
    runs: list[_Sample] = []
    for test in status["tests"]:
        labels = {"host": test["host"], "test": test["name"]}
        if test["test"] in looks:
            times.append((labels, looks[test["test"]]))
        if test["duration"] is not None:
            durations.append((labels, test["duration"]))
            runs.append((labels, test["runs"]))
    families.add(
        "test_last_look_timestamp_seconds", "When this node last looked at the test.", times
    )
    families.add(
        "test_duration_seconds", "How long the last look took, whatever came of it.", durations
    )
    families.add(
        "test_looks_total",
        "In how many rounds this node has looked at the test since the machine was started.",
        runs,
        "counter",
    )


def _number(value: float) -> str:
    if value != value:  # only NaN is not itself
        return "NaN"
    return f"{value:.15g}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = []
    for name, value in labels.items():
        escaped = names.escaped(value).replace("\\", "\\\\").replace('"', '\\"')
        pairs.append(f'{name}="{escaped}"')
    return "{" + ",".join(pairs) + "}"
