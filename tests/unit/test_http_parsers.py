"""The pure parsers of HTTP: keys, queries, conditions, ranges, dates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from pulzar.errors import InvalidKey, InvalidParameter, RangeNotSatisfiable
from pulzar.http.conditions import (
    ReadConditions,
    if_range_holds,
    parse_condition,
    read_conditions,
    write_condition,
)
from pulzar.http.content_type import check_content_type
from pulzar.http.dates import http_date, parse_http_date, rfc3339, rfc3339_ms
from pulzar.http.key_codec import (
    PLAIN_KEY,
    check_key,
    check_keys,
    decode_key,
    decode_prefix,
    key_path,
)
from pulzar.http.query import expires_at, lifetime_s, list_limit, parse_query, parse_ttl
from pulzar.http.ranges import Layout, Piece, content_range, multipart, parse_range
from pulzar.limits import ETAGS_MAX, EXPIRES_S_MAX, KEY_BYTES_MAX, LIST_LIMIT_MAX, RANGES_MAX
from pulzar.varidb.condition import Condition

VERSION = 0x0000_0100_0000_002A
ETAG = f'"{VERSION:016x}"'
PUT_QUERY = ("redirect", "temporal", "ttl")

keys = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=KEY_BYTES_MAX // 4
)


# Keys.


@given(keys)
def test_every_key_comes_back_from_the_url_that_is_made_of_it(key: str) -> None:
    path = key_path(key.encode())
    assert decode_key(path.encode()) == key.encode()
    assert path.isascii()
    assert not {".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"a/b", "a/b"),
        (b"a%2Fb", "a/b"),
        (b"a+b", "a+b"),
        (b"a%2Bb", "a+b"),
        (b"%25", "%"),
        (b"%2541", "%41"),  # decoded once
        (b"../a/./b//c", "../a/./b//c"),
        (b"%E2%82%AC", "€"),
        ("€".encode(), "€"),
        (b"%20", " "),
        (b"x" * KEY_BYTES_MAX, "x" * KEY_BYTES_MAX),
    ],
)
def test_a_key_is_decoded_once_and_not_folded(raw: bytes, key: str) -> None:
    assert decode_key(raw) == key.encode()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"x" * (KEY_BYTES_MAX + 1), "481 bytes; 480 are allowed"),
        (b"%E2%82%AC" * 161, "483 bytes"),
        (b"a%00b", "U+0000"),
        (b"a%0A", "U+000A"),
        (b"a%7F", "U+007F"),
        (b"a%C2%85", "U+0085"),
        (b"%", "%25"),
        (b"a%2", "%25"),
        (b"%zz", "%25"),
        (b"%FF", "not UTF-8"),
        (b"%C3", "not UTF-8"),
        (b"%ED%A0%80", "not UTF-8"),  # a surrogate
    ],
)
def test_a_bad_key_is_refused_in_a_sentence(raw: bytes, says: str) -> None:
    assert PLAIN_KEY.fullmatch(raw) is None
    with pytest.raises(InvalidKey, match=says.replace("+", r"\+")):
        decode_key(raw)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_key_or_an_invalid_key(raw: bytes) -> None:
    try:
        key = decode_key(raw)
    except InvalidKey:
        assert PLAIN_KEY.fullmatch(raw) is None
        return
    assert check_key(key.decode()) == key.decode()
    if PLAIN_KEY.fullmatch(raw):
        assert key == raw


def test_a_prefix_may_be_empty() -> None:
    assert decode_prefix(b"") == b""
    assert decode_prefix(b"a%2F") == b"a/"
    with pytest.raises(InvalidKey):
        decode_prefix(b"%0a")


def test_many_keys_are_checked_at_once_and_the_bad_one_is_named() -> None:
    assert check_keys(["a", "€"]) == [b"a", "€".encode()]
    assert check_keys([]) == []
    for bad in ("", "\n", "x" * 481, "€" * 161):
        with pytest.raises(InvalidKey, match=r"^operation 1: "):
            check_keys(["a", bad, "b"])


# Queries.


def test_a_query_is_read() -> None:
    assert parse_query(b"ttl=90s&redirect=1", PUT_QUERY) == {"ttl": "90s", "redirect": "1"}
    assert parse_query(b"after=a+b%2Bc%26", ("after",)) == {"after": "a b+c&"}
    assert parse_query(b"", ()) == {}
    assert parse_query(b"&&ttl=1s&", PUT_QUERY) == {"ttl": "1s"}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (b"tll=90s", "unknown query parameter 'tll'; did you mean 'ttl'"),
        (b"tempora=1", "did you mean 'temporal'"),
        (b"x=1", "known are: redirect, temporal, ttl"),
        (b"ttl=1s&ttl=2s", "given twice"),
        (b"redirect=2", "redirect must be 0 or 1"),
        (b"redirect", "redirect must be 0 or 1"),
        (b"ttl=%zz", "%25"),
        (b"ttl=%ff", "not UTF-8"),
    ],
)
def test_a_bad_query_is_refused(query: bytes, says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        parse_query(query, PUT_QUERY)


def test_where_there_are_no_parameters_the_error_says_so() -> None:
    with pytest.raises(InvalidParameter, match="'x'; there are none here"):
        parse_query(b"x", ())


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({}, 0),
        ({"temporal": "1"}, 86_400),
        ({"temporal": "007"}, 7 * 86_400),
        ({"ttl": "90s"}, 90),
        ({"ttl": "15m"}, 900),
        ({"ttl": "12h"}, 43_200),
        ({"ttl": "7d"}, 7 * 86_400),
    ],
)
def test_lifetimes(parameters: dict[str, str], seconds: int) -> None:
    assert lifetime_s(parameters) == seconds


@pytest.mark.parametrize(
    "parameters",
    [
        {"temporal": text}
        for text in ("0", "000", "-1", "1.5", "", "abc", " 1", "1 ", "1e3", "٣", "0x1", "1d")
    ]
    + [{"ttl": text} for text in ("0s", "-1s", "1", "s", "", "1.5h", "1w", "1S", " 1s", "٣s")]
    + [{"temporal": "1", "ttl": "1s"}],
)
def test_bad_lifetimes_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        lifetime_s(parameters)


def test_an_expiry_is_never_early_and_not_beyond_the_year_9999() -> None:
    assert expires_at(0, 5) == 0
    assert expires_at(1, 10_000) == 11
    assert expires_at(1, 10_001) == 12
    assert expires_at(EXPIRES_S_MAX - 10, 10_000) == EXPIRES_S_MAX
    for days in ("9999999", "9" * 13, "9" * 400):
        with pytest.raises(InvalidParameter, match="9999"):
            expires_at(lifetime_s({"temporal": days}), 0)
    with pytest.raises(InvalidParameter, match="9999"):
        expires_at(parse_ttl("9" * 5000 + "d"), 0)


def test_list_limits() -> None:
    assert list_limit({}) == 1000
    assert list_limit({"limit": str(LIST_LIMIT_MAX)}) == LIST_LIMIT_MAX
    for text in ("0", "-1", str(LIST_LIMIT_MAX + 1), "", "ten", "9" * 100):
        with pytest.raises(InvalidParameter, match="limit must be"):
            list_limit({"limit": text})


# Conditions.


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        (ETAG, (VERSION,)),
        ('""', ()),
        ('"abc"', ()),
        (ETAG.upper(), ()),
        (f'"x" , {ETAG},', (VERSION,)),
        (f",,{ETAG}", (VERSION,)),
        (f'{ETAG},"0000000000000001"', (VERSION, 1)),
        (f"  {ETAG}\t", (VERSION,)),
        ('"a,b"', ()),
    ],
)
def test_etags_are_read(text: str, versions: tuple[int, ...]) -> None:
    assert parse_condition(text, None) == Condition(match=versions)
    assert parse_condition(None, text) == Condition(none_match=versions)


def test_star_and_weak_tags() -> None:
    assert parse_condition("*", None) == Condition(match_any=True)
    assert parse_condition(None, " * ") == Condition(none_match_any=True)
    assert parse_condition(None, None) is None
    # If-Match compares strongly, If-None-Match weakly (RFC 9110, 13.1).
    assert parse_condition(f"W/{ETAG}", f"W/{ETAG}") == Condition(match=(), none_match=(VERSION,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        "abc",
        f"{VERSION:016x}",
        '"abc',
        'abc"',
        f"*,{ETAG}",
        f"{ETAG} {ETAG}",
        f"w/{ETAG}",
        '"a\x01b"',
        f"{ETAG};",
        ",".join(['"a"'] * (ETAGS_MAX + 1)),
    ],
)
def test_malformed_etags_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="If-Match"):
        parse_condition(text, None)
    with pytest.raises(InvalidParameter, match="If-None-Match"):
        parse_condition(None, text)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        parse_condition(text, text)
    except InvalidParameter:
        return
    assert '"' in text or "*" in text


def test_a_read_is_decided_in_the_order_of_the_rfc() -> None:
    created_ms = 1_700_000_000_500
    at_s = created_ms // 1000
    other = Condition(match=(1,))
    cases = [
        (ReadConditions(), 200),
        (ReadConditions(Condition(match=(VERSION,))), 200),
        (ReadConditions(Condition(match_any=True)), 200),
        (ReadConditions(other), 412),
        (ReadConditions(Condition(match=())), 412),
        (ReadConditions(Condition(none_match=(VERSION,))), 304),
        (ReadConditions(Condition(none_match_any=True)), 304),
        (ReadConditions(Condition(none_match=())), 200),
        (ReadConditions(unmodified_since_s=at_s), 200),
        (ReadConditions(unmodified_since_s=at_s - 1), 412),
        (ReadConditions(modified_since_s=at_s), 304),
        (ReadConditions(modified_since_s=at_s - 1), 200),
        # The ETag stands before the date.
        (ReadConditions(Condition(match=(VERSION,)), unmodified_since_s=0), 200),
        (ReadConditions(Condition(none_match=(1,)), modified_since_s=at_s), 200),
        (ReadConditions(other, modified_since_s=at_s), 412),
        (ReadConditions(Condition(match=(VERSION,)), modified_since_s=at_s), 304),
    ]
    for conditions, status in cases:
        assert conditions.status(VERSION, created_ms) == status, conditions


def test_headers_become_conditions() -> None:
    headers = Headers({"If-None-Match": ETAG, "If-Modified-Since": "nonsense"})
    read = read_conditions(dict(headers.raw))
    assert read == ReadConditions(Condition(none_match=(VERSION,)))
    assert write_condition({b"if-match": b"*"}) == Condition(match_any=True)
    with pytest.raises(InvalidParameter, match="use If-Match"):
        write_condition({b"if-unmodified-since": http_date(0)})


def test_if_range_needs_the_very_same_value() -> None:
    assert if_range_holds(ETAG, VERSION)
    assert not if_range_holds(f"W/{ETAG}", VERSION)
    assert not if_range_holds('"x"', VERSION)
    assert not if_range_holds(http_date(1000).decode(), VERSION)  # a second may have two values


# Ranges.


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 10)]),
        ("bytes=2-4", [(2, 5)]),
        ("bytes=8-99", [(8, 10)]),
        ("bytes=-3", [(7, 10)]),
        ("bytes=-99", [(0, 10)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes=0-1,5-6", [(0, 2), (5, 7)]),
        ("bytes=5-6, 0-1", [(5, 7), (0, 2)]),
        ("bytes=0-5,3-7", [(0, 8)]),
        ("bytes=0-1,2-3", [(0, 4)]),
        ("bytes=0-1,50-60,-0", [(0, 2)]),
        ("bytes=0-1,,", [(0, 2)]),
        ("bytes=8-" + "9" * 30, [(8, 10)]),
        ("bytes=-" + "9" * 5000, [(0, 10)]),
        ("bytes=" + "0" * 30 + "8-", [(8, 10)]),
        ("items=0-1", None),
    ],
)
def test_ranges_are_read(text: str, ranges: list[tuple[int, int]] | None) -> None:
    assert parse_range(text, 10) == ranges


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-2",
        "bytes=1",
        "bytes=--1",
        "bytes=1-2-3",
        "bytes=0-1;2-3",
        "bytes=٣-",
        "=0-1",
        "bytes=+1-2",
        "bytes=" + ",".join(["0-1"] * (RANGES_MAX + 1)),
    ],
)
def test_malformed_ranges_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_range(text, 10)


def test_ranges_behind_the_end_are_not_satisfiable() -> None:
    far = f"bytes={'9' * 5000}-"
    for text, size in (
        ("bytes=10-", 10),
        ("bytes=-0", 10),
        ("bytes=0-", 0),
        ("bytes=-5", 0),
        (far, 10),
    ):
        with pytest.raises(RangeNotSatisfiable) as caught:
            parse_range(text, size)
        assert caught.value.size == size


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=RANGES_MAX),
    st.integers(1, 20),
)
def test_ranges_name_exactly_the_bytes_asked_for(pairs: list[tuple[int, int]], size: int) -> None:
    pairs = [(min(pair), max(pair)) for pair in pairs]
    wanted = {at for low, high in pairs for at in range(low, high + 1) if at < size}
    text = "bytes=" + ",".join(f"{low}-{high}" for low, high in pairs)
    if not wanted:
        with pytest.raises(RangeNotSatisfiable):
            parse_range(text, size)
        return
    ranges = parse_range(text, size)
    assert ranges is not None
    named = [at for start, end in ranges for at in range(start, end)]
    assert sorted(named) == sorted(wanted)


def test_several_ranges_are_laid_out_as_parts() -> None:
    value = b"0123456789"
    layout = multipart([(0, 2), (5, 7)], size=10, content_type=b"text/plain", boundary=b"B")
    body = b"".join(p.lead + value[p.start : p.end] for p in layout.pieces) + layout.tail
    assert body == (
        b"--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-6/10\r\n\r\n56"
        b"\r\n--B--\r\n"
    )
    assert layout.length == len(body)
    assert Layout((Piece(2, 5),)).length == 3
    assert content_range(2, 5, 10) == b"bytes 2-4/10"


# Dates and content types.


@given(st.integers(0, EXPIRES_S_MAX))
def test_an_http_date_comes_back(seconds: int) -> None:
    assert parse_http_date(http_date(seconds).decode()) == seconds


def test_dates_as_text() -> None:
    assert http_date(784_111_777) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert rfc3339(784_111_777) == "1994-11-06T08:49:37Z"
    assert rfc3339(EXPIRES_S_MAX) == "9999-12-31T23:59:59Z"
    assert rfc3339_ms(784_111_777_042) == "1994-11-06T08:49:37.042Z"
    # The two obsolete forms of RFC 9110, 5.6.7.
    assert parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT") == 784_111_777
    assert parse_http_date("Sun Nov  6 08:49:37 1994") == 784_111_777
    for text in ("", "nonsense", "Sun, 99 Nov 1994 08:49:37 GMT", "1"):
        assert parse_http_date(text) is None


@given(st.text(max_size=50))
def test_any_text_is_a_date_or_none(text: str) -> None:
    parse_http_date(text)


def test_content_types() -> None:
    assert check_content_type("application/octet-stream") == ""
    assert check_content_type("") == ""
    assert check_content_type("text/plain; charset=utf-8") == "text/plain; charset=utf-8"
    for bad in ("x" * 256, "té", "a\nb", "a\x7fb"):
        with pytest.raises(InvalidParameter, match="Content-Type"):
            check_content_type(bad)
