"""Lists: their order, their pages, and what selectors leave of them."""

from __future__ import annotations

import base64
import json

import pytest

from common.kube.api import ExpiredError, InvalidError, Page
from tests.contract.clusters import MAYASTOR_VOLUMES, WIDGETS, Cluster, decoded


def found(page: Page) -> list[str]:
    return [decoded(item)["metadata"]["name"] for item in page.items]


async def some_widgets(cluster: Cluster, *names: str) -> None:
    for name in names:
        await cluster.widget(name)


async def test_an_empty_list_has_a_resource_version(cluster: Cluster) -> None:
    page = await cluster.api.list_page(WIDGETS, cluster.namespace)
    assert (page.items, page.continue_token) == ((), "")
    assert int(page.resource_version) > 0


async def test_a_list_is_in_the_order_of_names_and_holds_whole_objects(cluster: Cluster) -> None:
    await some_widgets(cluster, "b", "a-1", "c", "a")
    page = await cluster.api.list_page(WIDGETS, cluster.namespace)
    assert found(page) == ["a", "a-1", "b", "c"]
    assert decoded(page.items[0]) == await cluster.read("a")


async def test_a_list_of_all_namespaces_goes_namespace_by_namespace(cluster: Cluster) -> None:
    await some_widgets(cluster, "b", "a")
    for name in (f"{cluster.prefix}-z", f"{cluster.prefix}-y"):
        await cluster.api.create(WIDGETS, {"metadata": {"name": name}, "spec": {"word": "abc"}}, "default")
    page = await cluster.api.list_page(WIDGETS)
    mine = [name for name in found(page) if name in {"a", "b"} or name.startswith(cluster.prefix)]
    assert mine[:2] == [f"{cluster.prefix}-y", f"{cluster.prefix}-z"]
    assert {"a", "b"} <= set(mine[2:])


async def test_the_resource_version_of_a_list_covers_what_is_in_it(cluster: Cluster) -> None:
    created = await cluster.widget("w")
    page = await cluster.api.list_page(WIDGETS, cluster.namespace)
    assert int(page.resource_version) >= int(created["metadata"]["resourceVersion"])


async def test_pages_together_are_the_list_as_it_was_at_the_first(cluster: Cluster) -> None:
    await some_widgets(cluster, "a", "b", "c", "d", "e")
    first = await cluster.api.list_page(WIDGETS, cluster.namespace, limit=2)
    await cluster.patch("c", {"spec": {"count": 9}})
    await cluster.widget("c-new")
    await cluster.api.delete(WIDGETS, "d", cluster.namespace)
    second = await cluster.api.list_page(WIDGETS, cluster.namespace, limit=2, continue_token=first.continue_token)
    third = await cluster.api.list_page(WIDGETS, cluster.namespace, limit=2, continue_token=second.continue_token)
    assert [found(page) for page in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert decoded(second.items[0])["spec"]["count"] == 3
    assert first.resource_version == second.resource_version == third.resource_version
    assert third.continue_token == ""
    assert found(await cluster.api.list_page(WIDGETS, cluster.namespace)) == ["a", "b", "c", "c-new", "e"]


async def test_a_full_last_page_has_no_token(cluster: Cluster) -> None:
    await some_widgets(cluster, "a", "b")
    page = await cluster.api.list_page(WIDGETS, cluster.namespace, limit=2)
    assert (found(page), page.continue_token) == (["a", "b"], "")


async def test_a_token_that_is_none_is_refused(cluster: Cluster) -> None:
    for token in ("nonsense", "e30"):
        with pytest.raises(InvalidError, match="continue"):
            await cluster.api.list_page(WIDGETS, cluster.namespace, limit=1, continue_token=token)


async def test_a_token_from_too_long_ago_is_expired(cluster: Cluster) -> None:
    await some_widgets(cluster, "a", "b")
    page = await cluster.api.list_page(WIDGETS, cluster.namespace, limit=1)
    token = page.continue_token
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    old = base64.urlsafe_b64encode(json.dumps({**content, "rv": 2}).encode()).decode().rstrip("=")
    await cluster.forget()
    with pytest.raises(ExpiredError):
        await cluster.api.list_page(WIDGETS, cluster.namespace, limit=1, continue_token=old)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", ["both", "cold", "hot", "none"]),
        ("tier=hot", ["both", "hot"]),
        ("tier==hot", ["both", "hot"]),
        ("tier = hot", ["both", "hot"]),
        ("tier!=hot", ["cold", "none"]),
        ("tier", ["both", "cold", "hot"]),
        ("!tier", ["none"]),
        ("tier in (hot,cold)", ["both", "cold", "hot"]),
        ("tier in (hot, cold),fast", ["both"]),
        ("tier notin (hot)", ["cold", "none"]),
        ("tier=hot,!fast", ["hot"]),
        ("fast=", ["both"]),
        ("example.com/zone=a-1", ["both"]),
        ("tier in (cold),fast notin (x)", ["cold"]),
    ],
)
async def test_a_label_selector_selects(cluster: Cluster, selector: str, names: list[str]) -> None:
    labels = {
        "hot": {"tier": "hot"},
        "cold": {"tier": "cold"},
        "both": {"tier": "hot", "fast": "", "example.com/zone": "a-1"},
        "none": {},
    }
    for name, given in labels.items():
        body = {"metadata": {"name": name, "labels": given}, "spec": {"word": "abc"}}
        await cluster.api.create(WIDGETS, body, cluster.namespace)
    page = await cluster.api.list_page(WIDGETS, cluster.namespace, label_selector=selector)
    assert found(page) == sorted(names)


async def test_pages_go_together_with_a_selector(cluster: Cluster) -> None:
    for number in range(6):
        labels = {"odd": str(number % 2)}
        body = {"metadata": {"name": f"w{number}", "labels": labels}, "spec": {"word": "abc"}}
        await cluster.api.create(WIDGETS, body, cluster.namespace)
    seen: list[str] = []
    token = ""
    while True:
        page = await cluster.api.list_page(
            WIDGETS, cluster.namespace, limit=2, label_selector="odd=1", continue_token=token
        )
        seen += found(page)
        token = page.continue_token
        if not token:
            break
    assert seen == ["w1", "w3", "w5"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=a", ["a"]),
        ("metadata.name==a", ["a"]),
        ("metadata.name!=a", ["b"]),
        ("metadata.name=none", []),
        ("metadata.name!=a,metadata.name!=b", []),
    ],
)
async def test_a_field_selector_selects_by_name(cluster: Cluster, selector: str, names: list[str]) -> None:
    await some_widgets(cluster, "a", "b")
    assert found(await cluster.api.list_page(WIDGETS, cluster.namespace, field_selector=selector)) == names


async def test_a_field_selector_selects_by_namespace(cluster: Cluster) -> None:
    await some_widgets(cluster, "a")
    mine = f"metadata.namespace={cluster.namespace}"
    assert found(await cluster.api.list_page(WIDGETS, field_selector=mine)) == ["a"]


@pytest.mark.parametrize("selector", ["a b=", "a in b", "=x", "a=b c", "a in (b", ",,"])
async def test_a_label_selector_that_is_none_is_refused(cluster: Cluster, selector: str) -> None:
    with pytest.raises(InvalidError):
        await cluster.api.list_page(WIDGETS, cluster.namespace, label_selector=selector)


@pytest.mark.parametrize("selector", ["spec.count=3", "nonsense"])
async def test_a_field_selector_of_another_field_is_refused(cluster: Cluster, selector: str) -> None:
    with pytest.raises(InvalidError):
        await cluster.api.list_page(WIDGETS, cluster.namespace, field_selector=selector)


async def test_a_list_of_many_comes_in_pages_of_any_size(cluster: Cluster) -> None:
    names = [f"v{number:03}" for number in range(60)]
    for name in names:
        body = {"metadata": {"name": name}, "spec": {"numReplicas": 1}}
        await cluster.api.create(MAYASTOR_VOLUMES, body, cluster.namespace)
    for limit in (7, 60, 500):
        seen: list[str] = []
        token = ""
        while True:
            page = await cluster.api.list_page(MAYASTOR_VOLUMES, cluster.namespace, limit=limit, continue_token=token)
            seen += found(page)
            token = page.continue_token
            if not token:
                break
        assert seen == names
