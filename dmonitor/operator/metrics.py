"""What `report` says as metrics for Prometheus, in its text format (prometheus.io/docs/instrumenting/exposition_formats).

Pure. They are for the textfile collector of node_exporter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmonitor import __version__
from dmonitor.operator.report import FLAPPING, Facts

_Sample = tuple[Mapping[str, str], float]


def metrics(status: Facts, seconds: Mapping[str, float]) -> str:
    """Return all metrics of this node; SECONDS has times since the epoch, by what they are of."""
    tests = [({"host": each["host"], "test": each["name"]}, each) for each in status["tests"]]

    def one(value: float) -> list[_Sample]:
        return [({}, float(value))]

    families: list[tuple[str, str, Sequence[_Sample]]] = [
        (
            "info",
            "Which node and which dmonitor this is.",
            [({"node": status["node"], "version": __version__}, 1.0)],
        ),
        (
            "can_alert",
            "Whether this node can alert: peers, quorum, addresses and rounds are there.",
            one(status["can_alert"]),
        ),
        (
            "last_round_timestamp_seconds",
            "When its last round ended.",
            one(seconds.get("last_round", 0.0)),
        ),
        ("peers", "Other nodes in nodes.txt.", one(status["peers"])),
        (
            "peers_reached",
            "Other nodes that were reached in the last round.",
            one(len(status["reached"])),
        ),
        ("quorum", "Sites that have to see a test fail.", one(status["quorum"])),
        ("addresses", "Addresses and hooks that are told.", one(len(status["addresses"]))),
        (
            "incidents_owed",
            "Incidents of which something has not been told to everybody yet.",
            one(status["owed"]),
        ),
        ("state_stored", "Whether its state can be written.", one(status["stored"])),
        (
            "configuration_whole",
            "Whether all of its configuration can be read.",
            one(status["whole"]),
        ),
        (
            "trouble",
            "What keeps this node from seeing or telling.",
            [({"kind": each["kind"]}, 1.0) for each in status["troubles"]],
        ),
        (
            "test_down",
            "Whether a quorum sees the test fail.",
            [(labels, float(each["verdict"] == "DOWN")) for labels, each in tests],
        ),
        (
            "test_flapping",
            "Whether it changes too often.",
            [(labels, float(each["state"] == FLAPPING)) for labels, each in tests],
        ),
        (
            "test_failing_here",
            "Whether the test fails on this node; NaN if this node cannot tell.",
            [(labels, _HERE.get(each["here"], float("nan"))) for labels, each in tests],
        ),
        (
            "test_silenced",
            "Whether nobody is mailed about it.",
            [(labels, float(bool(each["silenced_by"]))) for labels, each in tests],
        ),
        (
            "test_state_since_timestamp_seconds",
            "Since when the test is in this state.",
            [(labels, seconds[each["test"]]) for labels, each in tests if each["test"] in seconds],
        ),
    ]
    lines = []
    for name, text, samples in families:
        lines += [f"# HELP dmonitor_{name} {text}", f"# TYPE dmonitor_{name} gauge"]
        lines += [f"dmonitor_{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "NaN" if value != value else f"{value:.15g}"


_HERE = {"OK": 0.0, "FAIL": 1.0, "TIMEOUT": 1.0}


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for name, value in labels.items()
    }
    return (
        "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
        if labels
        else ""
    )
