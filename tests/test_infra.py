"""The Prometheus and Grafana files name metrics and labels that exist, and a real Prometheus takes them and scrapes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.metric_catalogue import catalogue
from tests.clusters import Cluster, eventually, up
from tests.consul_server import ROOT, ConsulServer, find_consul
from tests.needs import need
from tests.photos import photo
from tests.prometheus_server import CONFIGURATIONS, Prometheus, checked, one_that_reads, running

DASHBOARDS = sorted((ROOT / "infra" / "grafana" / "dashboards").glob("*.json"))
CONFIGURED = ["prometheus.yml", "without-consul.yml"]
TARGET_LABELS = {"job", "instance", "service", "zone", "le"}
OF_OTHERS = {"up", "process_resident_memory_bytes"}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?(?!\s*\(|[a-zA-Z0-9_:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "inf", "nan"}


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """The metrics of a PromQL expression, each with the labels by which it is selected."""
    bare = _GROUPING.sub("", _RANGE.sub("", _STRING.sub('""', expression)))
    bare = re.sub(r"\$\w+", "1", bare)
    found = _SELECTOR.findall(re.sub(r"\b\d[\w.]*", " ", bare))
    return [(name, set(re.findall(r"(\w+)\s*[=!]", its))) for name, its in found if name.lower() not in _WORDS]


def labels_of(name: str) -> set[str] | None:
    """What a series of that name has; None when nothing exports it."""
    for one in catalogue():
        ends = ("", "_bucket", "_count", "_sum") if one.kind == "histogram" else ("",)
        if any(name == one.name + end for end in ends):
            return {*one.labels, *TARGET_LABELS}
    return TARGET_LABELS if name in OF_OTHERS else None


def dashboard_expressions(path: Path) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]
    queries = [v["definition"] for v in document["templating"]["list"] if "definition" in v]
    return expressions + [re.sub(r"label_values\((\w+), (\w+)\)", r'\1{\2=""}', query) for query in queries]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((CONFIGURATIONS / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


EXPRESSIONS = [("alerts", rule["expr"]) for rule in rules()] + [
    (path.stem, expression) for path in DASHBOARDS for expression in dashboard_expressions(path)
]


def test_the_extractor_finds_metrics_and_labels() -> None:
    expression = (
        'sum by (model, le) (rate(a_total{b="x{y}",c!~"z"}[5m])) / on (d) group_left () (e{} > 0.5) and up == 1e3'
    )
    assert selectors(expression) == [("a_total", {"b", "c"}), ("e", set()), ("up", set())]


def test_there_are_expressions() -> None:
    assert len(EXPRESSIONS) > 60


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_metric_that_is_named_exists(where: str, expression: str) -> None:
    found = selectors(expression)
    assert found
    for name, labels in found:
        its = labels_of(name)
        assert its is not None, f"{where}: nothing exports {name}"
        assert labels <= its, f"{where}: {name} has no {labels - its}"


def test_panels_have_a_name_and_a_meaning() -> None:
    for path in DASHBOARDS:
        panels = [p for p in json.loads(path.read_text(encoding="utf-8"))["panels"] if p["type"] != "row"]
        assert len({p["title"] for p in panels}) == len(panels)
        assert all(p["description"].endswith(".") for p in panels)
        assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)


def _able(configuration: str) -> Path:
    folder = one_that_reads(configuration)
    need(folder, f"no prometheus that can read {configuration} is installed")
    assert folder is not None
    return folder


@pytest.mark.parametrize("configuration", CONFIGURED)
def test_promtool_accepts_the_configuration_and_the_rules(configuration: str) -> None:
    answer = checked(_able(configuration), "check", "config", str(CONFIGURATIONS / configuration))
    assert (answer.returncode, "FAILED" in answer.stdout) == (0, False)
    assert f"{len(rules())} rules found" in answer.stdout


def test_promtool_accepts_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    folder = _able("without-consul.yml")
    expressions = [re.sub(r"\$__rate_interval", "1m", expression) for _, expression in EXPRESSIONS]
    file = tmp_path / "rules.yml"
    records = [{"record": f"test:{n}", "expr": expression} for n, expression in enumerate(expressions)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": records}]}))
    answer = checked(folder, "check", "rules", str(file))
    assert answer.returncode == 0, answer.stderr


def test_alerts_fire_when_they_should() -> None:
    answer = checked(_able("without-consul.yml"), "test", "rules", str(CONFIGURATIONS / "alerts_test.yml"))
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    binary = find_consul()
    need(binary, "consul is not installed")
    assert binary is not None
    with ConsulServer(binary, tmp_path / "consul") as server:
        yield server


@pytest.mark.cluster
def test_prometheus_scrapes_a_cluster_through_consul(consul: ConsulServer, tmp_path: Path) -> None:
    folder = _able("prometheus.yml")
    arguments = ("--workers", "2", "--model", "fake", "--discovery", consul.url)
    with (
        up(*arguments) as cluster,
        running(folder, "prometheus.yml", tmp_path / "prometheus", consul=f"127.0.0.1:{consul.port}") as prometheus,
    ):
        _see(prometheus, cluster)


@pytest.mark.cluster
def test_prometheus_scrapes_a_cluster_that_a_gateway_lists(tmp_path: Path) -> None:
    folder = _able("without-consul.yml")
    with up("--workers", "2", "--model", "fake") as cluster:
        gateway = cluster.document["internal_urls"]["gateway1"].removeprefix("http://")
        with running(folder, "without-consul.yml", tmp_path / "prometheus", gateway=gateway) as prometheus:
            _see(prometheus, cluster)


def _see(prometheus: Prometheus, cluster: Cluster) -> None:
    """Every instance answers Prometheus, under its name, and the dashboards have something to show."""
    names = {"gateway1", "worker1", "worker2"}
    eventually(lambda: prometheus.value("up == 1").keys() == names, within=30, what="all are scraped")
    assert prometheus.value("up == 0") == {}
    with cluster.client() as client:
        assert all(outcome.answer for outcome in client.predict_many([photo(seed) for seed in range(20)]))
    eventually(lambda: prometheus.value("sum(shoal_images_total)") == {"": 20}, within=10, what="images are counted")
    assert prometheus.value('shoal_model_ready{service="worker"} == 1').keys() == {"worker1", "worker2"}
    assert prometheus.value('shoal_directory_workers{state="ready"} == 2').keys() == {"gateway1"}
    targets = prometheus.get("targets")
    assert {target["health"] for target in targets["activeTargets"]} == {"up"}
    assert {one["name"] for group in prometheus.get("rules")["groups"] for one in group["rules"]} == {
        rule["alert"] for rule in rules()
    }
