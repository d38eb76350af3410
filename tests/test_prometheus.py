"""The examples for Prometheus and Grafana: they use what the metrics have, and promtool accepts them.

tests/scenarios/prometheus.py has a real Prometheus ask all of it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from local_nodes import CHECKOUT
from test_durations import seen

from dmonitor.core.model import Test
from dmonitor.operator import metrics, report

EXAMPLES = CHECKOUT / "etc/examples/prometheus"
RULES = (EXAMPLES / "rules.yml").read_text()
DASHBOARD = json.loads((EXAMPLES / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = re.findall(r"^ +expr: (.*)$", RULES, re.MULTILINE)
has_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is in Debian's package prometheus"
)


def written() -> str:
    """Return the metrics of a node with one test and one trouble."""
    node = seen()
    status = report.status(node)
    status["troubles"] = [{"kind": "isolated", "node": status["node"], "since": None, "text": ""}]
    times = {"last_round": 1.0, str(Test("www.example.com", "web")): 2.0}
    return metrics.metrics(status, times, {"www.example.com/web": 3.0})


def test_what_the_examples_ask_for_is_there() -> None:
    known = set(re.findall(r"^# TYPE (\w+)", written(), re.MULTILINE))
    asked = set(re.findall(r"dmonitor_\w+", "\n".join([*QUERIES, *ALERTS])))
    assert len(QUERIES) > 10 and len(ALERTS) > 8 and len(asked) > 10
    assert asked <= known, asked - known


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24 and panel["description"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, panel["title"]
                cells.add((x, y))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@has_promtool
def test_promtool_accepts_the_rules() -> None:
    command = ["promtool", "check", "rules", str(EXAMPLES / "rules.yml")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0 and f"{len(ALERTS)} rules found" in ran.stdout, ran


@has_promtool
def test_promtool_accepts_the_metrics() -> None:
    command = ["promtool", "check", "metrics"]
    text = written()
    ran = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, ""), ran
    bad = text.replace(
        "# TYPE dmonitor_test_looks_total counter", "# TYPE dmonitor_test_looks_total gauge"
    )
    ran = subprocess.run(
        command, input=bad, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode != 0, "it does look"
