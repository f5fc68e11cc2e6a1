"""
A crash before and after every single write of every course over Mayastor's REST API, levers and journal alike.
"""

from __future__ import annotations

import pytest

from tests.restarts.crash_points import COURSES, Course, try_point
from tests.restarts.test_crash_points import by_title


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("course", COURSES["rest"], ids=by_title)
def test_a_crash_at_any_write_is_made_good(course: Course, after: bool) -> None:
    failures = []
    for at in course.writes():
        failures += try_point(course, at, after=after, seconds=False).failures
    assert failures == []


@pytest.mark.parametrize("title", ["success", "success by labels", "two replicas", "cancel"])
def test_a_second_crash_in_the_recovery_is_made_good_too(title: str) -> None:
    course = next(each for each in COURSES["rest"] if each.title == title)
    failures = []
    for at in course.writes()[::3]:
        for second in (4 + at % 3, 9 + at % 4):
            try:
                course.crash(at, after=at % 2 == 0, second=second)
            except AssertionError as error:
                failures.append(f"at write {at}, then at write {second} of the recovery: {error}")
    assert failures == []
