"""What the documents say of the server is what it does."""

import re
import tomllib
from pathlib import Path

import pytest

from serving.metrics import Metrics
from serving.settings import ServerSettings
from serving.status import STATUSES
from serving.v1 import recommender_pb2 as pb

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def operations():
    return (DOCS / "operations.md").read_text()


def names_of(model):
    for name, value in model.model_fields.items():
        nested = [part for part in getattr(value.annotation, "__args__", (value.annotation,))]
        models = [part for part in nested if hasattr(part, "model_fields")]
        yield name
        for each in models:
            yield from names_of(each)


def test_every_metric_is_in_the_table_and_no_other(operations):
    metrics = Metrics()
    metrics.show_bundle("b", 0, 0.0)
    registered = {
        metric.name + "_total" * (metric.type == "counter")
        for metric in metrics.registry.collect()
        if metric.name.startswith("recsys_")
    }
    table = operations.partition("## Metrics")[2].partition("## Traces")[0]
    assert set(re.findall(r"^\| `(recsys_\w+)`", table, re.MULTILINE)) == registered


def test_example_of_settings_is_read_and_names_every_one(operations):
    block = operations.partition("## Settings of a server")[2].partition("    open_to")
    example = "    open_to" + block[2].partition("\n\nA file")[0]
    ServerSettings.model_validate(tomllib.loads(example))
    for name in names_of(ServerSettings):
        assert re.search(rf"\b{name}\b", example), name


def test_every_reason_is_in_the_table_of_statuses():
    text = (DOCS / "api.md").read_text()
    for code, reason in STATUSES.values():
        if reason != "ARTEFACT_REFUSED":  # of a bundle it is BUNDLE_REFUSED
            assert re.search(rf"\| {code.name} \| {reason} \|", text), reason


def test_every_field_of_the_log_line_is_in_the_table(operations, stub, refusal, log_events):
    header = [("traceparent", f"00-{'1' * 32}-{'2' * 16}-01")]
    stub.RecommendItems(pb.RecommendItemsRequest(user_id="u"), metadata=header)
    refusal(stub.RecommendItems, pb.RecommendItemsRequest(page_size=-1))
    table = operations.partition("## Logs")[2].partition("## Metrics")[0]
    listed = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M))))
    logged = {name for call in log_events.calls for name in call.kwargs}
    assert listed == logged | {"event", "level", "time"}
