"""The alert rules and the dashboard in etc/: they are sound, and ask for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics.exposed import Samples, exposition, rendered, told

HOME = Path(__file__).parent.parent.parent
RULES = HOME / "etc" / "prometheus" / "wingsd.rules.yml"
DASHBOARD = HOME / "etc" / "grafana" / "wingsd.json"
DOCUMENT = HOME / "docs" / "metrics.md"

#: A name of the exposition, and what it is narrowed down by.
SELECTOR = re.compile(r"\b((?:wingsd|process|python)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
#: What Grafana puts in the place of its variables.
VARIABLES = {
    "$__rate_interval": "5m",
    "$__range": "6h",
    "$__interval": "1m",
    "$job": "wingsd",
    "$instance": ".+",
}
#: Labels of Prometheus' own.
TARGET = {"job", "instance"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def queries() -> Iterator[str]:
    """Yield what the dashboard asks for, with the variables replaced by what they may be."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    found += [each["expr"] for each in dashboard()["annotations"]["list"]]
    names = re.compile("|".join(map(re.escape, VARIABLES)))
    for expression in found:
        yield names.sub(lambda variable: VARIABLES[variable[0]], expression)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


EXPRESSIONS = [rule["expr"] for rule in rules()] + list(queries())


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples(rendered(exposition(told()))[0])


def test_promtool_finds_the_rules_sound(promtool: Callable[..., str]) -> None:
    promtool("check", "rules", "--lint-fatal", str(RULES))


def test_each_alert_fires_when_it_should_and_not_otherwise(promtool: Callable[..., str]) -> None:
    promtool("test", "rules", str(Path(__file__).with_name("alerts.yml")))


def test_each_alert_has_such_a_test() -> None:
    text = Path(__file__).with_name("alerts.yml").read_text()
    for rule in rules():
        assert f"alertname: {rule['alert']}" in text or f'alertname="{rule["alert"]}"' in text


def test_each_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def matching(samples: Samples, name: str, matchers: str) -> list[dict[str, str]]:
    """Return the labels of the series that a selector finds."""
    found = [labels for known, labels, _ in samples.all if known == name]
    for label, operator, value in MATCHER.findall(matchers):
        if label in TARGET:
            continue
        assert all(label in labels for labels in found), f"{name} has no label {label}"
        wanted = value if operator.endswith("~") else re.escape(value)
        found = [
            labels
            for labels in found
            if bool(re.fullmatch(wanted, labels[label])) is not operator.startswith("!")
        ]
    return found


def test_every_expression_asks_for_a_series() -> None:
    assert [e for e in EXPRESSIONS if not SELECTOR.search(e) and not e.startswith("up{")] == []


def test_every_series_that_is_asked_for_is_there(samples: Samples) -> None:
    for name, matchers in SELECTOR.findall("\n".join(EXPRESSIONS)):
        assert matching(samples, name, matchers), f"nothing is {name}{{{matchers}}}"
        # Each of several values must be one.
        for label, operator, value in MATCHER.findall(matchers):
            if label not in TARGET and "~" in operator:
                for word in value.split("|"):
                    assert matching(samples, name, f'{label}="{word}"'), word


def test_every_label_that_is_kept_is_one(samples: Samples) -> None:
    for expression in EXPRESSIONS:
        names = {name for name, _ in SELECTOR.findall(expression)}
        known = {label for name, labels, _ in samples.all if name in names for label in labels}
        for kept in re.findall(r"\b(?:by|without|ignoring|on) \(?([\w, ]+)\)", expression):
            assert set(kept.split(", ")) <= known | TARGET, expression


def test_promtool_reads_each_dashboard_query(promtool: Callable[..., str], tmp_path: Path) -> None:
    recorded = [{"record": f"q:{n}", "expr": query} for n, query in enumerate(queries())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", str(path))


def test_every_panel_asks_the_chosen_source_and_says_what_it_shows() -> None:
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_document_has_every_series_of_the_node_with_its_labels(samples: Samples) -> None:
    rows = re.findall(r"^\| `(wingsd_\w+?)(?:{([\w,]+)})?`", DOCUMENT.read_text(), re.MULTILINE)
    exposed: dict[str, set[str]] = {}
    for name, labels, _ in samples.all:
        if name.startswith("wingsd_"):
            series = exposed.setdefault(re.sub("_(?:bucket|sum|count)$", "", name), set())
            # The document says once of which series these are.
            series.update(labels.keys() - {"le", "uuid", "name"})
    assert {name: set(filter(None, labels.split(","))) for name, labels in rows} == exposed
