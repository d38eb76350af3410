#!/usr/bin/env python3
"""A real Prometheus scrapes a real node_exporter, which reads what `dmonitor metrics` writes: each query of the examples returns something.

Three nodes on this machine look at a test that is DOWN and at one that is UP. Then every panel of the dashboard and every rule is asked,
and the alert about the test has to fire. All on loopback; works as any user. Needs Debian's packages prometheus and
prometheus-node-exporter, of which nothing but the programs is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from calls import free_port
from local_nodes import CHECKOUT, LocalNode, Place, running, wait_until

EXAMPLES = CHECKOUT / "etc/examples/prometheus"
ADDRESSES = ["127.0.0.71", "127.0.0.72", "127.0.0.73"]
_PATIENCE = 30.0  # seconds for Prometheus to start, scrape twice, and evaluate
_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{rules}']
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]
"""


class Prometheus:
    """A Prometheus that scrapes a node_exporter of the text files in a directory."""

    def __init__(self, scratch: Path, textfiles: Path) -> None:
        self._scratch = scratch
        self._textfiles = textfiles
        self._port, self._exporter_port = free_port(), free_port()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        config = self._scratch / "prometheus.yml"
        rules = EXAMPLES / "rules.yml"
        config.write_text(_CONFIG.format(rules=rules, exporter=self._exporter_port))
        exporter = (
            "prometheus-node-exporter",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={self._textfiles}",
            f"--web.listen-address=127.0.0.1:{self._exporter_port}",
        )
        prometheus = (
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self._scratch}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        )
        log = self._scratch / "log"
        processes = []
        try:
            with open(log, "wb") as file:
                for command in (exporter, prometheus):
                    processes.append(subprocess.Popen(command, stdout=file, stderr=file))
            yield
        except AssertionError:
            print(log.read_text()[-3000:])
            raise
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def get(self, path: str, **parameters: str) -> Any:
        """Return what the API says; None while it does not answer."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError):
                print(error.read().decode(), file=sys.stderr)
                error.close()
            return None

    def samples(self, expression: str) -> list[Any]:
        """Return the samples that an expression has now."""
        data = self.get("query", query=expression)
        return list(data["result"]) if data else []


def dashboard_queries() -> list[str]:
    """Return each query of the dashboard, as Grafana asks it of all hosts."""
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$host", ".*") for query in queries]


def rule_queries() -> list[str]:
    """Return the expression of each rule, without what leaves out what is well.

    With `bool` a comparison returns 0 or 1. So a rule that can never fire, because there is no such metric
    or its labels do not fit, returns nothing.
    """
    rules = (EXAMPLES / "rules.yml").read_text()
    queries = []
    for expression in re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE):
        expression = re.sub(r" (==|>|<) ", r" \1 bool ", expression)
        queries.append(re.sub(r"^absent\((.*)\)$", r"\1", expression))
    return queries


def nodes_of(place: Place) -> list[LocalNode]:
    port = free_port()
    nodes = [LocalNode(place, address, ADDRESSES, port=port) for address in ADDRESSES]
    for node in nodes:
        node.mail()
        node.key("k" * 32)
        node.plugin("up", "echo OK 200")
        node.plugin("down", "echo FAIL refused")
        node.test("www.example.com/up")
        node.test("www.example.com/down")
        node.also = ("--run", str(place.writable(f"{node.address}-run")))
    return nodes


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dmonitor-prometheus.") as directory:
        place = Place(Path(directory))
        place.replace("core/complaints.py", '"no-daemon": 300.0', '"no-daemon": 0.0')
        nodes = nodes_of(place)
        with running(nodes):
            for _ in range(2):
                for node in nodes:
                    node.round()
            nodes[2].stop()  # a trouble
            nodes[2].round()
        textfiles = Path(directory) / "textfiles"
        textfiles.mkdir()
        told = [node.run("dmonitor", "metrics", "-").stdout for node in nodes]
        assert "dmonitor_trouble{" in told[2], told[2]
        (textfiles / "dmonitor.prom").write_text(told[2])
        scratch = Path(directory) / "prometheus"
        scratch.mkdir()
        prometheus = Prometheus(scratch, textfiles)
        queries = [*dashboard_queries(), *rule_queries()]
        failed = []
        with prometheus.running():
            wait_until(lambda: prometheus.samples("rate(dmonitor_test_looks_total[5m])"), _PATIENCE)
            for query in queries:
                samples = prometheus.samples(query)
                print(f"{len(samples):3} samples  {query}")
                if not samples:
                    failed.append(query)

            def firing() -> set[str]:
                alerts = prometheus.get("alerts")["alerts"]
                return {
                    alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"
                }

            wait_until(lambda: "DmonitorTestDown" in firing(), _PATIENCE)
            print("firing:", ", ".join(sorted(firing())))
            assert prometheus.samples("absent(dmonitor_no_such)"), "it is a real Prometheus"
    seconds = time.monotonic() - began
    print(f"{len(queries) - len(failed)} passed, {len(failed)} failed")
    print(f"it took {seconds:.0f} s", file=sys.stderr)
    return 1 if failed or len(queries) < 20 else 0


if __name__ == "__main__":
    os.environ.setdefault("GOMAXPROCS", "1")
    sys.exit(main())
