"""What the commands that ask and show send and show: on a wide screen, a narrow one, with colour and without."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from couchestor.migrator.v1 import migrator_pb2
from couchestor.planner.v1 import planner_pb2
from couchestor.scorer.v1 import scorer_pb2

from tests.cli.answers import a_migration, a_plan, a_ranking, a_stay, an_ended, an_explanation, lasting
from tests.cli.desk import Desk

pytestmark = pytest.mark.timeout(30)
Matches = Callable[[str, str], None]
NewDesk = Callable[..., Desk]
SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"width": 160},
    "narrow": {"width": 72},
    "ascii": {"width": 110, "encoding": "ascii"},
}
ESCAPE = re.compile(r"\x1b\[")

ASKED = {
    "top": (("top",), "scorer", "ListHottestVolumes", a_ranking()),
    "explain": (("explain", "pvc-abc123"), "planner", "ExplainVolume", an_explanation()),
    "preview": (("preview", "database-tiering"), "planner", "PreviewPlan", a_plan()),
    "migrations": (
        ("migrations",),
        "migrator",
        "ListMigrations",
        migrator_pb2.ListMigrationsResponse(
            migrations=[
                a_migration(progress=0.35, eta=lasting(timedelta(seconds=80)), reason="WaitingForRebuild"),
                a_migration("vmig-queued", migrator_pb2.MIGRATION_STATE_PENDING, volume="pvc-b", queue_position=1),
                an_ended("vmig-done", volume="pvc-c"),
                an_ended("vmig-dry", volume="pvc-d", dry_run=True, reason="DryRun"),
                an_ended("vmig-late", migrator_pb2.MIGRATION_STATE_ABORTED, reason="TimedOut", volume="pvc-e"),
            ]
        ),
    ),
}


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("command", ASKED)
def test_an_answer_is_laid_out_for_the_screen_there_is(
    new_desk: NewDesk, matches: Matches, command: str, screen: str
) -> None:
    argv, service, method, answer = ASKED[command]
    desk = new_desk(**SCREENS[screen])
    done = desk.type(*argv)
    desk.answer(service, method, answer)
    assert done.result() == 0
    matches(desk.screen, f"{command}-{screen}")
    assert max(len(line) for line in desk.screen.splitlines()) <= max(desk.width, 100)


@pytest.mark.parametrize("command", ASKED)
def test_colour_is_for_terminals_and_changes_no_word(new_desk: NewDesk, command: str) -> None:
    argv, service, method, answer = ASKED[command]
    screens = {}
    for terminal in (True, False):
        desk = new_desk(width=160, terminal=terminal)
        done = desk.type(*argv)
        desk.answer(service, method, answer)
        assert done.result() == 0
        screens[terminal] = desk.screen
    assert ESCAPE.search(screens[True])
    assert not ESCAPE.search(screens[False])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screens[True])
    assert [line.rstrip() for line in plain.splitlines()] == screens[False].splitlines()


@pytest.mark.parametrize("command", ASKED)
def test_json_is_the_whole_answer(new_desk: NewDesk, command: str) -> None:
    from google.protobuf import json_format

    argv, service, method, answer = ASKED[command]
    desk = new_desk()
    done = desk.type(*argv, "--json")
    desk.answer(service, method, answer)
    assert done.result() == 0
    assert json_format.ParseDict(json.loads(desk.screen), type(answer)()) == answer


def test_columns_line_up(new_desk: NewDesk) -> None:
    desk = new_desk(width=160)
    done = desk.type("top")
    desk.answer("scorer", "ListHottestVolumes", a_ranking())
    assert done.result() == 0
    _, header, *rows = desk.screen.splitlines()
    place = header.index("QUALITY")
    assert [row[place : place + 2] for row in rows] == ["OK", "OK", "OK"]
    end = header.index("IOPS") + len("IOPS")
    assert [row[:end].split()[-1] for row in rows] == ["12,850", "5,235", "0.25"]


def test_top_asks_for_what_was_typed(desk: Desk) -> None:
    done = desk.type("top", "-n", "5", "--window", "1h30m", "--deadline", "3")
    request = desk.answer("scorer", "ListHottestVolumes", a_ranking())
    assert done.result() == 0
    assert request == scorer_pb2.ListHottestVolumesRequest(limit=5, window=lasting(timedelta(minutes=90)))
    assert desk.connected_to == ["scorer"]


def test_top_says_why_it_shows_nothing(new_desk: NewDesk) -> None:
    for quality, why in (
        (scorer_pb2.HEAT_QUALITY_OK, "no volume has samples"),
        (scorer_pb2.HEAT_QUALITY_UNAVAILABLE, "Prometheus does not answer"),
    ):
        desk = new_desk()
        done = desk.type("top")
        desk.answer("scorer", "ListHottestVolumes", scorer_pb2.ListHottestVolumesResponse(snapshot_quality=quality))
        assert done.result() == 0
        assert why in desk.screen


def test_a_volume_that_no_policy_knows_is_explained_too(desk: Desk) -> None:
    done = desk.type("explain", "pvc-new")
    desk.answer("planner", "ExplainVolume", planner_pb2.ExplainVolumeResponse(volume="pvc-new"))
    assert done.result() == 0
    assert desk.screen == "pvc-new\nThere is no StoragePolicy, so nothing moves it.\n"


def test_a_policy_that_does_nothing_says_why(desk: Desk) -> None:
    done = desk.type("preview", "off")
    plan = planner_pb2.Plan(policy_name="off", reason="PolicyDisabled", detail="spec.enabled is false")
    desk.answer("planner", "PreviewPlan", planner_pb2.PreviewPlanResponse(plan=plan))
    assert done.result() == 0
    assert "The policy does nothing: PolicyDisabled, spec.enabled is false" in desk.screen


def test_preview_can_leave_out_what_stays(desk: Desk) -> None:
    done = desk.type("preview", "database-tiering", "--moves")
    request = desk.answer("planner", "PreviewPlan", a_plan())
    assert done.result() == 0
    assert (request.policy_name, request.moves_only, request.page_token) == ("database-tiering", True, "")


def pages_of(plan: planner_pb2.Plan, *sizes: int) -> list[planner_pb2.PreviewPlanResponse]:
    """Pages of a plan of as many volumes as these are."""
    pages = []
    for number, size in enumerate(sizes, start=1):
        decisions = [a_stay(f"pvc-{number}-{n:04}") for n in range(size)]
        token = f"after-{number}" if number < len(sizes) else ""
        pages.append(planner_pb2.PreviewPlanResponse(plan=plan, next_page_token=token))
        pages[-1].plan.decisions.extend(decisions)
    return pages


def test_preview_as_json_is_all_pages_in_one(desk: Desk) -> None:
    done = desk.type("preview", "p", "--json")
    tokens = []
    for page in pages_of(planner_pb2.Plan(policy_name="p", watched_volumes=7), 3, 3, 1):
        request = desk.answer("planner", "PreviewPlan", page)
        tokens.append(request.page_token)
        assert request.page_size == 5000
    assert done.result() == 0
    assert tokens == ["", "after-1", "after-2"]
    shown = json.loads(desk.screen)
    assert len(shown["plan"]["decisions"]) == shown["plan"]["watched_volumes"] == 7
    assert shown["next_page_token"] == ""


def test_preview_as_a_table_reads_page_after_page_up_to_the_limit(desk: Desk) -> None:
    done = desk.type("preview", "p", "--limit", "5")
    first, second = pages_of(planner_pb2.Plan(policy_name="p"), 3, 2, 9)[:2]
    assert desk.answer("planner", "PreviewPlan", first).page_size == 5
    assert desk.answer("planner", "PreviewPlan", second).page_size == 2
    assert done.result() == 0
    assert desk.screen.count("CoolingDown") == 5
    assert desk.complaints == "couchestor: there are more than 5; see --limit\n"


def test_migrations_reads_page_after_page_up_to_the_limit(desk: Desk) -> None:
    done = desk.type(
        "migrations", "--limit", "250", "--volume", "pvc-a", "--policy", "p", "--state", "Failed", "--active"
    )
    first = desk.answer(
        "migrator",
        "ListMigrations",
        migrator_pb2.ListMigrationsResponse(
            migrations=[a_migration(f"vmig-{i}") for i in range(200)], next_page_token="t"
        ),
    )
    second = desk.answer(
        "migrator",
        "ListMigrations",
        migrator_pb2.ListMigrationsResponse(
            migrations=[a_migration(f"vmig-{i}") for i in range(200, 250)], next_page_token="u"
        ),
    )
    assert done.result() == 0
    assert first.filter == migrator_pb2.MigrationFilter(
        volume="pvc-a", policy_name="p", states=[migrator_pb2.MIGRATION_STATE_FAILED], active_only=True
    )
    assert (first.page_size, first.page_token, second.page_size, second.page_token) == (200, "", 50, "t")
    assert desk.screen.count("vmig-") == 250
    assert "more than 250" in desk.complaints


def test_no_migrations_is_an_answer(desk: Desk) -> None:
    done = desk.type("migrations")
    desk.answer("migrator", "ListMigrations", migrator_pb2.ListMigrationsResponse())
    assert done.result() == 0
    assert desk.screen == "No migrations.\n"


def test_values_of_a_newer_service_are_shown_as_numbers(new_desk: NewDesk) -> None:
    desk = new_desk(width=160)
    done = desk.type("migrations")
    newer = a_migration()
    newer.MergeFromString(b"\x28\x63")  # field 5, state: 99
    desk.answer("migrator", "ListMigrations", migrator_pb2.ListMigrationsResponse(migrations=[newer]))
    assert done.result() == 0
    assert "state 99" in desk.screen


def test_a_refused_call_is_one_line_and_exit_code_1(desk: Desk) -> None:
    done = desk.type("explain", "pvc-x")
    desk.refuse("planner", "ExplainVolume", grpc.StatusCode.NOT_FOUND, "PersistentVolume pvc-x does not exist")
    assert done.result() == 1
    assert desk.screen == ""
    assert desk.complaints == ("couchestor: planner at localhost:1: NOT_FOUND: PersistentVolume pvc-x does not exist\n")


def test_markup_in_a_name_is_not_markup(desk: Desk) -> None:
    done = desk.type("explain", "x")
    answer = an_explanation()
    answer.policies[0].decision.detail = "labels [bold]team[/bold]=a"
    answer.policies[0].checks[0].detail = "[/nonsense]"
    desk.answer("planner", "ExplainVolume", answer)
    assert done.result() == 0
    assert "labels [bold]team[/bold]=a" in desk.screen
    assert "[/nonsense]" in desk.screen
