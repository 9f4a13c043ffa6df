"""docs/observability.md says what the code does: its table is the catalogue, and every alert has its section."""

from __future__ import annotations

import re

import pytest
import yaml

from shoal.access import PROBES
from shoal.metric_catalogue import rewritten
from tests.consul_server import ROOT
from tests.prometheus_server import CONFIGURATIONS

PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")


def test_the_table_is_the_catalogue() -> None:
    assert rewritten(PAGE) == PAGE, "python -m shoal.metric_catalogue docs/observability.md writes it"


def _alerts() -> list[dict[str, dict[str, str]]]:
    document = yaml.safe_load((CONFIGURATIONS / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", _alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_leads_to_its_section(rule: dict[str, dict[str, str]]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/observability.md"
    headings = {
        re.sub(r"[^\w-]", "", line.lstrip("# ").lower().replace(" ", "-"))
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    assert anchor in headings
    section = PAGE.partition(f"### {rule['alert']}\n")[2].partition("\n#")[0]
    assert " ".join(section.split()) == rule["annotations"]["description"]
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_alert_on_the_page_exists() -> None:
    assert set(re.findall(r"^### (Shoal\w+)$", PAGE, re.MULTILINE)) == {str(rule["alert"]) for rule in _alerts()}


def test_the_page_names_every_probe() -> None:
    assert [probe for probe in PROBES if f"`{probe}`" not in PAGE] == []
