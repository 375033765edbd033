"""What an installation says of proxies, by flag or by environment."""

import argparse

import pytest

from meshwright.edge.injection_flags import add_injection_flags, read_injection_settings


@pytest.mark.parametrize(
    ("words", "variable", "has"), [((), "", False), (("--scrape-annotations",), "", True), ((), "true", True)]
)
def test_prometheus_annotations_are_asked_for_by_flag_or_environment(
    words: tuple[str, ...], variable: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHWRIGHT_SCRAPE_ANNOTATIONS", variable)
    parser = argparse.ArgumentParser()
    add_injection_flags(parser)
    assert read_injection_settings(parser.parse_args(words)).has_scrape_annotations is has
