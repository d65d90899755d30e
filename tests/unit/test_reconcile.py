"""What is to be done where a volume and the catalog do not say the same of a key."""

import random

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pulzar.cluster.reconcile import (
    Action,
    Do,
    Known,
    decide,
    digest,
    digest_of_columns,
    may_forget,
    reread,
    without,
)
from pulzar.varidb import catalog_row
from pulzar.varidb.catalog_row import COMPLETE, SEEN, Row, change_of
from pulzar.varidb.following import blob_key, note_key
from pulzar.varidb.position import Position, pack_position
from pulzar.varidb.record import Type

KEY = b"key"
HERE, THERE = 1, 2
LIVE = (Type.PUT, Type.BLOB)


def position(type_: Type, version: int, *, seq: int = 10) -> Position:
    return Position(
        segment=1,
        offset=64,
        length=100,
        type=type_,
        flags=0,
        key_length=len(KEY),
        meta_length=0,
        seq=seq,
        version=version,
        size=2000 if type_ in LIVE else 0,
        created_ms=5,
        expires_s=0,
    )


def row(version: int, *numbers: int, moved: tuple[int, ...] = (), seq: int = 10) -> Row:
    holders = [(number, seq << 1) for number in numbers]
    holders += [(number, seq << 1 | 1) for number in moved]
    return Row(version, 2000, 5, 0, SEEN | COMPLETE, tuple(sorted(holders)), b"", b"")


ADOPT, FORGET = Action(Do.ADOPT, 7), Action(Do.FORGET, 7)
HIDE = Action(Do.HIDE, 7, Type.MOVED)


@pytest.mark.parametrize(
    ("there", "known", "action"),
    [
        (None, None, None),
        (None, 5, None),
        (None, row(7, THERE), None),
        (None, row(7, HERE, THERE), FORGET),
        (position(Type.PUT, 7), None, ADOPT),
        (position(Type.BLOB, 7), 5, ADOPT),
        (position(Type.PUT, 7), row(5, HERE), ADOPT),
        (position(Type.PUT, 7), row(7, THERE), ADOPT),
        (position(Type.PUT, 7), row(7, HERE), None),
        (position(Type.PUT, 7), row(7, THERE, moved=(HERE,)), ADOPT),
        (position(Type.PUT, 7), 9, Action(Do.HIDE, 9, Type.DELETE)),
        (position(Type.PUT, 7), 7, Action(Do.HIDE, 7, Type.DELETE)),
        (position(Type.PUT, 7), row(9, THERE), HIDE),
        (position(Type.PUT, 7), row(9, HERE), Action(Do.FORGET, 9)),
        (position(Type.DELETE, 7), None, ADOPT),
        (position(Type.DELETE, 7), 5, ADOPT),
        (position(Type.DELETE, 7), 7, None),
        (position(Type.DELETE, 7), 9, None),
        (position(Type.DELETE, 7), row(5, HERE), ADOPT),
        (position(Type.DELETE, 7), row(7, HERE), ADOPT),
        (position(Type.DELETE, 7), row(9, THERE), None),
        (position(Type.DELETE, 5), row(7, HERE), FORGET),
        (position(Type.MOVED, 7), None, None),
        (position(Type.MOVED, 7), row(7, THERE), None),
        (position(Type.MOVED, 7), row(7, HERE), FORGET),
        (position(Type.MOVED, 9), row(7, HERE), FORGET),
    ],
)
def test_a_key_is_decided_by_what_both_say(
    there: Position | None, known: Known, action: Action | None
) -> None:
    assert decide(there, known, number=HERE) == action


@pytest.mark.parametrize(
    ("there", "known", "does"),
    [
        (position(Type.PUT, 7), None, Do.SET_ASIDE),
        (position(Type.PUT, 8), None, Do.SET_ASIDE),
        (position(Type.PUT, 9), None, Do.ADOPT),
        (position(Type.PUT, 7), 5, Do.SET_ASIDE),
        (position(Type.PUT, 7), row(7, THERE), Do.ADOPT),
        (position(Type.PUT, 7), row(7, HERE), None),
        (position(Type.PUT, 7), row(9, THERE), Do.SET_ASIDE),
        (position(Type.PUT, 7), row(9, HERE), Do.FORGET),
        (position(Type.DELETE, 7), None, Do.SET_ASIDE),
        (position(Type.DELETE, 7), 7, None),
        (position(Type.MOVED, 7), None, Do.SET_ASIDE),
    ],
)
def test_what_an_old_copy_has_from_before_a_purge_counts_only_if_the_catalog_names_it(
    there: Position, known: Known, does: Do | None
) -> None:
    action = decide(there, known, number=HERE, purged=8)
    assert (action.do if action is not None else None) == does


@pytest.mark.parametrize(
    ("then", "now", "may"),
    [
        (row(7, HERE), row(7, HERE), True),
        (row(7, HERE), row(7, HERE, THERE), True),
        (row(7, HERE), row(9, HERE), False),
        (row(7, THERE), row(7, HERE, THERE), False),
        (row(7, HERE), row(7, HERE, seq=11), False),
        (row(7, HERE), row(7, THERE), False),
        (row(7, THERE), row(7, THERE), False),
        (None, row(7, HERE), False),
        (row(7, HERE), 9, False),
    ],
)
def test_a_copy_is_forgotten_only_if_it_is_the_one_that_was_missed(
    then: Known, now: Known, *, may: bool
) -> None:
    assert may_forget(then, now, number=HERE) is may


def test_a_copy_that_is_made_after_an_older_one_was_forgotten_counts_whatever_its_seq() -> None:
    known = without(row(7, HERE, THERE, seq=100), HERE)
    change = change_of(KEY, position(Type.PUT, 7, seq=11))
    again = catalog_row.decide(known, change, holder=HERE, seq=11)
    assert isinstance(again, Row)
    assert again.copies == (HERE, THERE)


def test_what_an_older_copy_of_a_directory_says_replaces_what_its_later_self_said() -> None:
    later = row(7, HERE, THERE, seq=100)
    known = reread(KEY, position(Type.PUT, 7, seq=3), later, number=HERE)
    moved = change_of(KEY, position(Type.MOVED, 7, seq=11))
    known = catalog_row.decide(known, moved, holder=HERE, seq=11)
    assert isinstance(known, Row)
    assert known.copies == (THERE,)


POSITIONS = st.one_of(
    st.none(),
    st.builds(
        position,
        st.sampled_from([Type.PUT, Type.BLOB, Type.DELETE, Type.MOVED]),
        st.integers(1, 6),
        seq=st.integers(1, 20),
    ),
)
ROWS = st.builds(
    lambda version, holders: msgspec.structs.replace(
        row(version), holders=tuple(sorted(holders.items()))
    ),
    st.integers(1, 6),
    st.dictionaries(st.sampled_from([HERE, THERE, 3]), st.integers(2, 41), max_size=3),
)
KNOWN: st.SearchStrategy[Known] = st.one_of(st.none(), st.integers(1, 6), ROWS)


def carried_out(
    there: Position | None, known: Known, action: Action
) -> tuple[Position | None, Known]:
    """What the volume and the catalog say when an action was done."""
    if action.do == Do.FORGET:
        return there, without(known, HERE)
    assert there is not None
    if action.do == Do.HIDE:
        return position(Type(action.type), action.version, seq=there.seq + 1), known
    change = change_of(KEY, there)
    return there, catalog_row.decide(without(known, HERE), change, holder=HERE, seq=there.seq)


@given(POSITIONS, KNOWN)
def test_what_is_to_be_done_comes_to_an_end_and_makes_both_say_the_same(
    there: Position | None, known: Known
) -> None:
    before = known.version if isinstance(known, Row) else known or 0
    for _ in range(3):
        action = decide(there, known, number=HERE)
        if action is None:
            break
        there, known = carried_out(there, known, action)
    assert decide(there, known, number=HERE) is None
    lives = there is not None and there.type in LIVE
    lists = isinstance(known, Row) and HERE in known.copies
    assert lives == lists
    if there is not None and isinstance(known, Row) and lives:
        assert there.version == known.version
    assert (known.version if isinstance(known, Row) else known or 0) >= before


@given(POSITIONS, KNOWN)
def test_nothing_is_hidden_that_the_catalog_does_not_know_better(
    there: Position | None, known: Known
) -> None:
    action = decide(there, known, number=HERE)
    if action is not None and action.do == Do.HIDE:
        assert there is not None
        at = known.version if isinstance(known, Row) else known
        assert at is not None
        assert there.version < at or (there.version == at and not isinstance(known, Row))
        assert there.version <= action.version <= at


@given(POSITIONS, KNOWN)
def test_to_read_anew_is_to_know_nothing_else_of_a_volume(
    there: Position | None, known: Known
) -> None:
    new = reread(KEY, there, known, number=HERE)
    assert reread(KEY, there, new, number=HERE) == new
    lives = there is not None and there.type in LIVE
    if isinstance(new, Row):
        at = there.version if there is not None else 0
        assert (HERE in new.copies) == (lives and at == new.version)
        if isinstance(known, Row) and known.version == new.version:
            others = [one for one in known.holders if one[0] != HERE]
            assert [one for one in new.holders if one[0] != HERE] == others
    if known is not None:
        assert new is not None
    for number in (THERE, 3):
        assert reread(KEY, None, known, number=number) == without(known, number)


@given(POSITIONS, KNOWN)
def test_a_volume_that_was_read_anew_has_nothing_left_to_adopt_or_to_forget(
    there: Position | None, known: Known
) -> None:
    action = decide(there, reread(KEY, there, known, number=HERE), number=HERE)
    assert action is None or action.do == Do.HIDE


HELD = st.dictionaries(st.binary(min_size=1, max_size=3), st.integers(1, 1 << 42), max_size=6)


@given(HELD, HELD)
def test_digests_are_equal_where_the_sets_are_and_nowhere_else(
    one: dict[bytes, int], other: dict[bytes, int]
) -> None:
    assert (digest(b"z", one.items()) == digest(b"z", other.items())) == (one == other)


@given(HELD, st.integers(0, 1 << 30))
def test_a_digest_does_not_depend_on_the_order(held: dict[bytes, int], seed: int) -> None:
    shuffled = list(held.items())
    random.Random(seed).shuffle(shuffled)
    assert digest(b"z", shuffled) == digest(b"z", held.items())


@given(HELD, st.integers(1, 1 << 20), st.integers(0, 19))
def test_two_keys_do_not_take_back_each_others_change(
    held: dict[bytes, int], version: int, bit: int
) -> None:
    assume(len(held) >= 2)
    keys = list(held)
    old = {key: version * 4 << 20 | number for number, key in enumerate(keys)}
    new = {key: at ^ (1 << 20 + bit) for key, at in old.items()}
    assert digest(b"z", old.items()) != digest(b"z", new.items())


def test_a_change_that_two_checksums_cannot_see_is_seen() -> None:
    # With CRC32C of the key, and then of the version, as the hash, these two sums are equal.
    version = 0x300003E73E8
    old = [(b"k157178", version), (b"k550335", version + 2)]
    new = [(b"k157178", version + 1), (b"k550335", version + 3)]
    assert digest(b"z", old) != digest(b"z", new)


def test_only_live_keys_of_users_and_of_pulzar_count() -> None:
    said = {
        b"\x00job": position(Type.PUT, 4),
        b"a": position(Type.PUT, 1),
        b"b": position(Type.DELETE, 2),
        b"c": position(Type.BLOB, 3),
        b"d": position(Type.MOVED, 5),
        blob_key("name"): position(Type.BLOB, 3),
        note_key(Type.MEMBERS): position(Type.MEMBERS, 6),
    }
    columns = digest_of_columns(list(said), [pack_position(*item) for item in said.items()])
    held = [(b"c", 3), (b"a", 1), (b"\x00job", 4)]
    assert columns == digest(note_key(Type.MEMBERS), held)
    assert columns.count == 3
