"""The recorded exchanges, played again to the simulator of the version that they were recorded with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sandbox.world.versions import MayastorVersion
from tests.contract.recordings.__main__ import is_valid, main
from tests.contract.recordings.compare import differences, family
from tests.contract.recordings.explained import EXPLAINED
from tests.contract.recordings.reference import (
    BESIDE_THE_CHECKOUT,
    VARIABLE,
    Exchange,
    Request,
    Response,
    read_recordings,
    recordings_file,
)
from tests.contract.recordings.replay import Tally, Verdict, replay

AT_LEAST = 250
SAME_FRACTION = 0.8


@pytest.fixture(scope="module")
def path() -> Path:
    found = recordings_file()
    if found is None:
        pytest.skip(f"the recorded exchanges are not at hand ({VARIABLE} or {BESIDE_THE_CHECKOUT})")
    return found


@pytest.fixture(scope="module")
def recordings(path: Path) -> list[Exchange]:
    return read_recordings(path)


@pytest.fixture(scope="module")
def tally(recordings: list[Exchange]) -> Tally:
    return replay(recordings)


def test_the_simulator_answers_as_was_recorded(
    recordings: list[Exchange], tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    line = tally.line(sum(is_valid(exchange) for exchange in recordings))
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
    different = [f"{each.exchange.name}: {each.detail}" for each in tally.played if each.verdict is Verdict.DIFFERENT]
    assert not different, "\n".join(different)
    assert tally.reenacted >= AT_LEAST
    assert tally.count(Verdict.SAME) >= SAME_FRACTION * tally.reenacted


def test_every_explanation_is_still_needed(tally: Tally) -> None:
    given = {each.detail for each in tally.played if each.verdict is Verdict.EXPLAINED}
    assert given == {each.reason for each in EXPLAINED}


def test_the_states_of_a_cycle_come_in_the_recorded_order(recordings: list[Exchange], tally: Tally) -> None:
    cycle = [each for each in tally.played if each.exchange.case == "cycle"]
    assert {each.verdict for each in cycle} == {Verdict.SAME}
    polled = [each.exchange.response.body for each in cycle if each.exchange.is_poll]
    progress = [
        place.get("rebuild-progress") for body in polled for place in body["state"]["replica_topology"].values()
    ]
    assert len(polled) == 9
    assert [value for value in progress if value is not None] == [0, 14, 29, 46, 62, 78, 93]


def test_whoever_went_when_it_was_recorded_goes(tally: Tally) -> None:
    drops = [
        each for each in tally.played if each.exchange.name.endswith(":scale-down") and "which" in each.exchange.case
    ]
    assert len(drops) > 20
    assert {each.verdict for each in drops} <= {Verdict.SAME, Verdict.EXPLAINED}


@pytest.mark.parametrize(
    ("version", "told_apart_by"),
    [
        (MayastorVersion.EARLY_2025, "which:old-pool-label-no-longer-matches,target-node-1#1:scale-down"),
        (MayastorVersion.OPENEBS_4_3, "which:old-node-1-cordoned,target-node-1#1:scale-down"),
        (MayastorVersion.OPENEBS_4_4, "pool-cordon-4.4-call"),
    ],
)
def test_a_later_version_is_told_from_the_recorded_one(
    recordings: list[Exchange], version: MayastorVersion, told_apart_by: str
) -> None:
    until = max(index for index, exchange in enumerate(recordings) if exchange.name == told_apart_by)
    later = replay(recordings[: until + 1], version)
    assert told_apart_by in {each.exchange.name for each in later.played if each.verdict is Verdict.DIFFERENT}


def test_they_can_be_played_by_hand(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith("recordings: exchanges=856 valid=856 ")


def an_exchange(status: int, body: object) -> Exchange:
    return Exchange("story:read", Request("GET", "/v0/pools"), Response(status, body))


ERROR = {"details": "", "message": "SvcError :: PoolNotFound: Pool 'a' not found", "kind": "NotFound"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Response(412, ERROR), "status 412"),
        (Response(404, ERROR | {"kind": "InUse"}), "kind InUse"),
        (Response(404, ERROR | {"message": "SvcError :: NodeNotFound: Node 'a' not found"}), "NodeNotFound"),
        (Response(404, {"kind": "NotFound"}), "is no error"),
    ],
)
def test_another_error_is_a_difference(answer: Response, said: str) -> None:
    found = differences(an_exchange(404, ERROR), answer)
    assert any(said in line for line in found), found


def test_the_particulars_of_an_error_are_no_difference() -> None:
    other = ERROR | {"message": "SvcError :: PoolNotFound: Pool 'another' not found"}
    assert differences(an_exchange(404, ERROR), Response(404, other)) == ()
    assert family('Path deserialize error: can not parse "300" to a u8') != family("Content type error")


POOL = {"id": "p", "state": {"used": 7, "rebuild-progress": 40, "version": "1"}}


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"rebuild-progress": 55, "version": "2"}, 0),
        ({"rebuild-progress": 65}, 1),
        ({"rebuild-progress": "40"}, 1),
        ({"version": 2}, 1),
        ({"used": 8}, 1),
        ({"more": True}, 1),
    ],
)
def test_progress_may_differ_a_little_and_all_else_not_at_all(change: dict[str, object], count: int) -> None:
    answer = {"id": "p", "state": {**POOL["state"], **change}}  # type: ignore[dict-item]
    assert len(differences(an_exchange(200, [POOL]), Response(200, [answer]))) == count
