"""Prometheus finds the metrics by annotations when it is asked to, and by nothing else unless it is."""

import pytest

from tests.helm.conftest import Helm, Json, of_kind
from tests.helm.test_identity_values import read

PROCESSES = ("meshwright-operator", "meshwright-xds", "meshwright-webhook")


def scraped(objects: tuple[Json, ...]) -> dict[str, dict[str, str]]:
    return {
        name: {
            key.removeprefix("prometheus.io/"): text
            for key, text in raw["spec"]["template"]["metadata"]["annotations"].items()
            if key.startswith("prometheus.io/")
        }
        for name, raw in of_kind(objects, "Deployment").items()
    }


def test_nothing_is_marked_unless_that_is_asked_for(default: tuple[Json, ...]) -> None:
    assert scraped(default) == {name: {} for name in PROCESSES}
    assert read(default, "webhook").scrape_annotations is False


def test_one_value_marks_the_charts_pods_and_those_with_a_proxy(helm: Helm) -> None:
    objects = helm.render("scrapeAnnotations=true")
    assert scraped(objects) == {name: {"scrape": "true", "port": "8080", "path": "/metrics"} for name in PROCESSES}
    assert read(objects, "webhook").scrape_annotations is True


@pytest.mark.parametrize("key", ["scrape", "port"])
def test_what_a_person_says_of_prometheus_is_left_alone(helm: Helm, key: str) -> None:
    objects = helm.render("scrapeAnnotations=true", f'xds.podAnnotations={{"prometheus.io/{key}": "false"}}')
    assert scraped(objects)["meshwright-xds"] == {key: "false"}
