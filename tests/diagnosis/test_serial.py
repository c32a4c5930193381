import dataclasses
import json
import math

import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.diagnosis import (
    Cause,
    CheckRecord,
    Diagnosis,
    Evidence,
    Finding,
    LayerProfile,
    Severity,
)
from pfn_optax.diagnosis.serial import schema
from tests.diagnosis.examples import ALL

NAMES = st.text(max_size=8)
NUMBERS = st.floats(allow_nan=False)
EVIDENCE = st.builds(Evidence, NAMES, NUMBERS, st.none() | NUMBERS, NAMES)
FINDINGS = st.builds(
    Finding,
    st.sampled_from(Cause),
    st.sampled_from(Severity),
    NAMES,
    NAMES,
    st.lists(st.builds(Evidence, NAMES, NUMBERS, st.none() | NUMBERS, NAMES), max_size=2).map(
        tuple
    ),
    st.lists(NAMES, max_size=2).map(tuple),
    NUMBERS,
    st.none() | st.sampled_from(Cause),
)
LAYERS = st.builds(
    LayerProfile,
    NAMES,
    st.integers(0),
    width=st.none() | st.integers(0),
    gain=st.none() | NUMBERS,
    is_in_cut=st.none() | st.booleans(),
)
DIAGNOSES = st.builds(
    Diagnosis,
    st.lists(FINDINGS, max_size=2).map(tuple),
    st.lists(LAYERS, max_size=2).map(tuple),
    st.dictionaries(NAMES, NUMBERS, max_size=2),
    st.lists(st.builds(CheckRecord, NAMES, NUMBERS, NAMES, st.booleans()), max_size=2).map(tuple),
    st.integers(0),
    NUMBERS,
)


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("name", ALL)
def test_examples_keep_to_the_schema_and_come_back(validator, name):
    text = ALL[name].to_json()
    validator.validate(json.loads(text, parse_constant=pytest.fail))
    back = Diagnosis.from_json(text)
    assert back.to_json() == text
    assert name == "broken" or back == ALL[name]  # NaN is not equal to itself
    assert str(back) == str(ALL[name])


@given(DIAGNOSES)
@settings(max_examples=15)
def test_any_diagnosis_keeps_to_the_schema_and_comes_back(validator, diagnosis):
    text = diagnosis.to_json(indent=None)
    validator.validate(json.loads(text))
    assert Diagnosis.from_json(text) == diagnosis


def test_numbers_that_are_not_finite_are_named():
    text = ALL["broken"].to_json()
    record = json.loads(text)
    assert record["measures"] == {"loss": "NaN", "top": "Infinity"}
    assert record["layers"][2]["gradient_norm"] == "-Infinity"
    assert record["layers"][2]["gain"] is None  # not measured
    assert math.isnan(Diagnosis.from_json(text).measures["loss"])


def test_scalars_of_arrays_are_numbers():
    layer = LayerProfile(
        "a", np.int64(3), np.int32(2), gain=jnp.float32(2.0), is_in_cut=np.bool_(True)
    )
    evidence = Evidence("found", np.float32(0.5), jnp.ones(()))
    finding = Finding(Cause.FROZEN, Severity.NOTE, "", "", (evidence,))
    diagnosis = Diagnosis((finding,), (layer,), {"loss": jnp.float32(1.5)})
    record = json.loads(diagnosis.to_json())
    assert record["layers"][0]["num_params"] == 3
    assert record["layers"][0]["is_in_cut"] is True
    assert record["findings"][0]["evidence"][0]["limit"] == 1.0
    assert record["measures"] == {"loss": 1.5}


def test_the_schema_has_every_field_and_every_name():
    parts = schema()["$defs"]
    kinds = {"finding": Finding, "layer": LayerProfile, "check": CheckRecord}
    for part, kind in kinds.items():
        names = [field.name for field in dataclasses.fields(kind)]
        later = ["applies"] if kind is CheckRecord else []  # than the first files of this version
        assert list(parts[part]["properties"]) == [*parts[part]["required"], *later] == names
    assert tuple(parts["evidence"]["properties"]) == Evidence._fields
    assert parts["cause"]["enum"] == [cause.name.lower() for cause in Cause]
    severities = [severity.name.lower() for severity in Severity]
    assert parts["finding"]["properties"]["severity"]["enum"] == severities
    names = [field.name for field in dataclasses.fields(Diagnosis)]
    assert list(schema()["properties"]) == ["format", "version", *names]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("format"), '"format": "pfn_optax.diagnosis"'),
        (lambda r: r.update(version=99), "of version 1, got 99"),
        (lambda r: r.pop("findings"), "must have the field 'findings'"),
        (lambda r: r.update(colour=1), "has no field 'colour'"),
        (lambda r: r.update(seconds="soon"), r"seconds must be of type int or float, got 'soon'"),
        (lambda r: r.update(num_params=True), "num_params must be of type int, got True"),
        (lambda r: r.update(layers={}), "layers must be of type list"),
        (
            lambda r: r["findings"][0].update(severity="bad"),
            "severity must be one of note",
        ),
        (lambda r: r["findings"][0].update(cause=None), r"findings\[0\].cause must be of type str"),
        (
            lambda r: r["layers"][1].update(gain=[]),
            r"layers\[1\].gain must be of",
        ),
    ],
)
def test_what_is_no_diagnosis_is_refused_by_place(validator, change, message):
    record = json.loads(ALL["sick"].to_json())
    change(record)
    with pytest.raises(ValueError, match=message):
        Diagnosis.from_json(json.dumps(record))
    assert not validator.is_valid(record)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff"])
def test_what_is_not_even_json(text):
    with pytest.raises(ValueError, match="must be"):
        Diagnosis.from_json(text)


def test_fields_that_have_a_default_may_be_left_out():
    record = {"format": "pfn_optax.diagnosis", "version": 1, "findings": [], "layers": []}
    assert Diagnosis.from_json(json.dumps(record)) == ALL["empty"]


def test_files_from_before_it_was_told_what_applies_are_read(validator):
    record = json.loads(ALL["sick"].to_json())
    for check in record["checks"]:
        del check["applies"]
    validator.validate(record)
    assert Diagnosis.from_json(json.dumps(record)) == ALL["sick"]
