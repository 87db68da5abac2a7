import json

import pytest
from pydantic import ValidationError
from transformers import BertModel

from bipft_compress.reporting import Report, report_json_schema


def test_json_comes_back_the_same(report):
    text = report.model_dump_json()
    assert Report.model_validate_json(text) == report
    assert Report.model_validate(json.loads(text)) == report


def test_keys_that_others_read(report, tiny_config):
    data = json.loads(report.model_dump_json())
    assert data["schema_version"] == 1
    operations, memory = data["operations"], data["memory"]
    # Most of 578,096 operations become 1/64 each.
    assert operations["ratio"] == pytest.approx(12.7, abs=0.5)
    full_precision = 4 * sum(weight.numel() for weight in BertModel(tiny_config).parameters())
    assert memory["full_precision_bytes"] == full_precision
    assert memory["ratio"] == pytest.approx(full_precision / memory["compressed_bytes"])
    assert data["quality"]["sts_spearman"]["pairs"] == 1500
    assert {"module", "kind", "parameters", "action", "reason"} == set(data["swapped"][0])


@pytest.mark.parametrize("change", [{"unknown": 1}, {"schema_version": 2}, {"batch": 0}])
def test_what_does_not_fit_is_refused(report, change):
    with pytest.raises(ValidationError):
        Report.model_validate(report.model_dump() | change)


def test_every_field_is_described():
    schema = report_json_schema()
    assert all(part["description"] for part in schema["$defs"].values())
    for name, part in (*schema["$defs"].items(), ("Report", schema)):
        for field, value in part["properties"].items():
            assert "$ref" in value or value.get("description"), f"{name}.{field}"
