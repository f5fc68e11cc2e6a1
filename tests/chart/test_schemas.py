"""The schemas of the custom resources and the structs that the code decodes them into are one thing, written twice."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from common.durations import parse_duration
from common.resources.meta import GROUP
from common.resources.migration import MigrationSpec, MigrationStatus
from common.resources.policy import PolicySpec, PolicyStatus, StoragePolicy, policy_from
from tests.chart.chart import crd

PARTS = {
    "storagepolicies spec": ("storagepolicies", "spec", PolicySpec),
    "storagepolicies status": ("storagepolicies", "status", PolicyStatus),
    "volumemigrations spec": ("volumemigrations", "spec", MigrationSpec),
    "volumemigrations status": ("volumemigrations", "status", MigrationStatus),
}
SIMPLE = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.DateTimeType: "string",
    inspect.EnumType: "string",
    inspect.StructType: "object",
    inspect.DictType: "object",
    inspect.VarTupleType: "array",
}


def schema_of(plural: str, part: str) -> dict[str, Any]:
    """The schema of spec or status."""
    (version,) = crd(plural)["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"][part]
    return schema


def without_none(kind: inspect.Type) -> inspect.Type:
    """T of `T | None`."""
    if isinstance(kind, inspect.UnionType):
        others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
        if len(others) == 1:
            return others[0]
    return kind


def differences(kind: inspect.Type, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Tell where a type and a schema disagree."""
    kind = without_none(kind)
    expected = SIMPLE.get(type(kind))
    if expected is not None and schema.get("type") != expected:
        yield f"{path}: the schema has type {schema.get('type')}, the code {expected}"
        return
    match kind:
        case inspect.EnumType():
            words = {member.value for member in kind.cls}
            if "enum" not in schema and path.startswith("status"):
                return  # nobody but us writes a status, so there the schema may say less
            if "enum" not in schema and path.startswith("status"):
                return  # nobody but us writes a status, so there the schema may say less
            if set(schema.get("enum", ())) != words:
                yield f"{path}: the schema has {schema.get('enum')}, the code {sorted(words)}"
        case inspect.DateTimeType() if schema.get("format") != "date-time":
            yield f"{path}: the schema lacks format date-time"
        case inspect.VarTupleType():
            yield from differences(kind.item_type, schema["items"], f"{path}[]")
        case inspect.DictType() if isinstance(kind.value_type, inspect.AnyType):
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}: the code keeps anything here, the schema would prune it"
        case inspect.DictType():
            yield from differences(kind.value_type, schema["additionalProperties"], f"{path}[*]")
        case inspect.StructType():
            yield from struct_differences(kind, schema, path)


def struct_differences(kind: inspect.StructType, schema: dict[str, Any], path: str) -> Iterator[str]:
    """Fields, which of them must be there, and their defaults."""
    fields = {field.encode_name: field for field in kind.fields}
    properties = schema.get("properties", {})
    for name in fields.keys() ^ properties.keys():
        yield f"{path}.{name}: only the {'code' if name in fields else 'schema'} has it"
    for name in fields.keys() & properties.keys():
        field, its = fields[name], properties[name]
        if field.required and name not in schema.get("required", ()) and "default" not in its:
            yield f"{path}.{name}: the code cannot read an object without it, and the schema admits one"
        if "default" in its and its["default"] != field.default and not isinstance(field.default, msgspec.Struct):
            yield f"{path}.{name}: the schema defaults to {its['default']!r}, the code to {field.default!r}"
        yield from differences(field.type, its, f"{path}.{name}")


@pytest.mark.parametrize("part", PARTS)
def test_the_schema_has_the_fields_types_and_defaults_of_the_code(part: str) -> None:
    plural, name, struct = PARTS[part]
    assert list(differences(inspect.type_info(struct), schema_of(plural, name), name)) == []


def test_the_comparison_notices_what_differs() -> None:
    schema = schema_of("storagepolicies", "spec")
    schema["properties"]["lowWatermarkIOPS"]["default"] = 400
    schema["properties"]["noData"]["enum"].remove("Hold")
    schema["properties"]["dryRun"]["type"] = "string"
    schema["properties"]["maxMigrations"] = schema["properties"].pop("maxConcurrentMigrations")
    found = list(differences(inspect.type_info(PolicySpec), schema, "spec"))
    for field in ("lowWatermarkIOPS", "noData", "dryRun", "maxMigrations", "maxConcurrentMigrations"):
        assert any(line.startswith(f"spec.{field}:") for line in found), (field, found)


def test_every_setting_of_a_policy_has_its_default_in_the_schema() -> None:
    # So that `kubectl get -o yaml` shows what holds. The pool selectors are the exception: each has two names.
    properties = schema_of("storagepolicies", "spec")["properties"]
    missing = {name for name, its in properties.items() if "default" not in its}
    assert missing == {
        "volumeSelector",
        "hotPoolSelector",
        "warmPoolSelector",
        "coldPoolSelector",
        "nvmePoolSelector",
        "sataPoolSelector",
    }


def test_a_policy_made_of_the_schemas_defaults_is_the_default_policy() -> None:
    properties = schema_of("storagepolicies", "spec")["properties"]
    written = {name: its["default"] for name, its in properties.items() if "default" in its}
    policy = msgspec.convert({"metadata": {"name": "p"}, "spec": written}, StoragePolicy)
    assert policy.spec == PolicySpec()
    assert policy_from(policy).high_watermark == 5000


@pytest.mark.parametrize("text", ["1h", "90s", "1h30m", "7d", "0", "1.5h", "250ms", "10us", "10µs", "3ns"])
def test_a_duration_that_the_code_reads_passes_the_schema(text: str) -> None:
    parse_duration(text)
    for pattern in duration_patterns():
        assert re.search(pattern, text), pattern


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1 h", "1h ", "1w", "1h30", "+1h", ".5h", "1.h", "abc", "1h;"])
def test_a_duration_that_the_code_refuses_does_not(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
    for pattern in duration_patterns():
        assert not re.search(pattern, text), pattern


def duration_patterns() -> set[str]:
    """The patterns of every duration in both resources."""
    policy = schema_of("storagepolicies", "spec")["properties"]
    fields = [policy[name] for name in ("samplingWindow", "cooldownPeriod", "migrationTimeout")]
    fields.append(schema_of("volumemigrations", "spec")["properties"]["timeout"])
    return {field["pattern"] for field in fields}


@pytest.mark.parametrize(
    ("plural", "kind", "short"),
    [("storagepolicies", "StoragePolicy", {"sp", "spolicy"}), ("volumemigrations", "VolumeMigration", {"vmig"})],
)
def test_the_resources_are_named_as_documented_and_show_columns(plural: str, kind: str, short: set[str]) -> None:
    spec = crd(plural)["spec"]
    (version,) = spec["versions"]
    assert crd(plural)["metadata"]["name"] == f"{plural}.{GROUP}"
    assert (spec["group"], spec["scope"], spec["names"]["kind"]) == (GROUP, "Cluster", kind)
    assert set(spec["names"]["shortNames"]) == short
    assert (version["name"], version["served"], version["storage"]) == ("v1", True, True)
    assert version["subresources"] == {"status": {}}
    columns = {column["name"]: column["jsonPath"] for column in version["additionalPrinterColumns"]}
    assert "Age" in columns
    assert len(columns) >= 6
    for path in columns.values():
        assert path == ".metadata.creationTimestamp" or leads_somewhere(version["schema"]["openAPIV3Schema"], path)


def leads_somewhere(schema: dict[str, Any], path: str) -> bool:
    """Tell whether a column's path is one of the schema's fields."""
    for name in path.replace("[0]", "").strip(".").split("."):
        schema = schema.get("items", schema)
        if name not in schema.get("properties", {}):
            return False
        schema = schema["properties"][name]
    return True
