"""What an agent has begun is known to the next one."""

from pathlib import Path

import pytest

from pulzar.jobs.begun import Begun
from pulzar.jobs.messages import Before, Order
from pulzar.jobs.slot import Running


def running(job: int) -> Running:
    return Running(
        Order(job=job, attempt=1, directory="d", script="s", digest="", arguments="", timeout_s=0.0)
    )


def test_the_next_agent_knows_what_was_begun_and_forgets_it_when_it_was_told(
    tmp_path: Path,
) -> None:
    first = Begun(str(tmp_path), "aa")
    first.note(1, 1, [])
    first.note(22, 3, [running(1), None])
    assert first.before() == []
    second = Begun(str(tmp_path), "bb")
    third = Begun(str(tmp_path), "cc")
    assert third.before() == [Before("aa", [(1, 1), (22, 3)]), Before("bb", [])]
    third.forget(third.before())
    assert third.before() == []
    assert second.before() == [Before("cc", [])]


def test_a_torn_line_was_not_begun(tmp_path: Path) -> None:
    (tmp_path / "begun-aa").write_bytes(b"1 1\n2 1\n3")
    (tmp_path / "begun-bb.new").write_bytes(b"9 9\n")
    assert Begun(str(tmp_path), "cc").before() == [Before("aa", [(1, 1), (2, 1)])]


def test_what_has_ended_is_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pulzar.jobs.begun.BEGUN_MAX", 3)
    begun = Begun(str(tmp_path), "aa")
    for job in (1, 2, 3, 4):
        begun.note(job, 1, [running(2), running(3)])
    found = Begun(str(tmp_path), "bb").before()
    assert found == [Before("aa", [(2, 1), (3, 1), (4, 1)])]
