"""The bytes of every message between machines: they may not change within a protocol."""

import pytest

from pulzar.cluster import messages as m
from pulzar.cluster.membership import Entry, Members, decode_members, encode_members
from pulzar.cluster.wire import cursor_text, key_text, parse_cursor, parse_key
from pulzar.errors import InvalidParameter
from pulzar.jobs import messages as j
from pulzar.varidb.position import NOWHERE, Cursor

ID = "0123456789abcdef" * 2
OPENING = bytes(range(16))

MESSAGES: list[tuple[m.Message, str]] = [
    (
        m.Presence(
            protocol=1,
            id=ID,
            instance="i",
            name="alpha",
            url="http://10.0.0.1:9001",
            cluster="",
            generation=0,
            epoch=3,
            entries=7,
            opening=OPENING,
            seq=9,
            total_bytes=1 << 40,
            used_bytes=1 << 30,
            room_bytes=1 << 39,
            now_ms=1_700_000_000_000,
            damaged=[(b"k", 1 << 40)],
        ),
        "dc001201d920" + ID.encode().hex() + "a169a5616c706861b4"
        "687474703a2f2f31302e302e302e313a39303031a0000307c410" + OPENING.hex() + "09"
        "cf0000010000000000ce40000000cf0000008000000000cf0000018bcfe56800a0c400"
        "9192c4016bcf0000010000000000",
    ),
    (
        m.Welcome(protocol=1, cluster=ID, generation=2, epoch=3, now_ms=5, state="online"),
        "9601d920" + ID.encode().hex() + "020305a66f6e6c696e65",
    ),
    (m.SessionWanted(3, 1 << 40, OPENING), "9303cf0000010000000000c410" + OPENING.hex()),
    (m.SessionOpened(OPENING, 9, b""), "94c410" + OPENING.hex() + "09c400a0"),
    (
        m.Append(3, 4, 5, [m.NewRecord(1, b"k", b"v", b"", 1 << 40, 6, 0)], 7),
        "950304059199" + "01c4016bc40176c400cf00000100000000000600a000" + "07",
    ),
    (m.Appended(OPENING, 10), "92c410" + OPENING.hex() + "0a"),
    (m.Fetch([(b"k", 1 << 40)]), "929192c4016bcf0000010000000000c2"),
    (
        m.Fetched([m.Found(m.FOUND, b"", b"v"), m.Found(m.NOT_HERE), m.Found(m.DAMAGED)]),
        "91939300c400c401769301c400c4009302c400c400",
    ),
    (
        m.LogPage(
            OPENING,
            9,
            10,
            [m.LogRecord(b"k", 1, 2, 9, 1, 6, 0, b"", b"v"), m.LogRecord(b"d", 2, 3, 9, 0, 6, 0)],
        ),
        "94c410" + OPENING.hex() + "090a929bc4016b010209010600c400c40176c300"
        "9bc40164020309000600c400c0c300",
    ),
    (
        m.SnapshotPage(OPENING, 9, 1, [b"k"], bytes(3)),
        "95c410" + OPENING.hex() + "090191c4016bc403000000",
    ),
    (m.DigestPage([m.Digest(b"k", 2, (1 << 64) - 1)]), "919193c4016b02cfffffffffffffffff"),
    (
        m.Pull("http://v:1", b"k", 2, 3, "u"),
        "95aa687474703a2f2f763a31c4016b0203a175",
    ),
    (m.Staged("u", 3, [ID]), "93a1750391d920" + ID.encode().hex()),
    (m.Compacted({"segments": 2}), "9181a87365676d656e747302"),
    (m.UploadWanted(ID, -1, 2), "93d920" + ID.encode().hex() + "ff02"),
    (m.UploadPlan("u", ["http://v:1"]), "92a17591aa687474703a2f2f763a31"),
    (
        m.UploadDone(
            upload="u",
            key=b"k",
            size=3,
            volumes=[ID],
            content_type="",
            expires_s=0,
            replicas=0,
            none_match_any=True,
        ),
        "9ba175c4016b0391d920" + ID.encode().hex() + "a00000c0c2c0c3",
    ),
    (m.Committed(2, 3, 0, 1, 2, created=True), "96020300" + "0102c3"),
    (
        j.Turn(agent="a", node="n", turn=2, wait_s=1.5, wants=3, free=1, jobs=[7]),
        "97a161a16e02cb3ff8000000000000" + "03019107",
    ),
    (
        j.Done(
            "a",
            "n",
            [
                j.Result(
                    job=3,
                    attempt=4,
                    event="fail",
                    started_ms=5,
                    finished_ms=6,
                    error="e",
                    traceback="t",
                    log=b"l",
                    log_dropped=7,
                )
            ],
        ),
        "93a161a16e919a0304a46661696c0506a0a165a174c4016c07",
    ),
    (j.Recorded(), "90"),
    (j.Given(), "9190"),
    (
        j.Given(
            [
                j.Order(
                    job=1,
                    attempt=2,
                    directory="d",
                    script="s",
                    digest="h",
                    arguments="{}",
                    timeout_s=0.5,
                )
            ]
        ),
        "9191970102a164a173a168a27b7dcb3fe0000000000000",
    ),
    (
        j.Word(
            agent="a",
            node="n",
            slots=2,
            wait_s=0.0,
            running=[j.News(job=1, attempt=2, offset=3, log=b"l", progress=0.5, note="x")],
            before=[j.Before("b", [(1, 2)])],
            scheduler=9,
        ),
        "97a161a16e02cb00000000000000009196010203c4016ccb3fe0000000000000a1789192a1629192010209",
    ),
    (j.Heard([(1, 2)], 9), "929192010209"),
]


@pytest.mark.parametrize(
    ("message", "content"), MESSAGES, ids=[type(one).__name__ for one, _ in MESSAGES]
)
def test_a_message_has_these_bytes(message: m.Message, content: str) -> None:
    assert m.encode(message).hex() == content
    assert m.decode(type(message), bytes.fromhex(content)) == message


def test_every_kind_of_message_is_pinned() -> None:
    inside = {m.NewRecord, m.Found, m.LogRecord, m.Digest, j.Order, j.News, j.Result, j.Before}
    kinds = {type(message) for message, _ in MESSAGES} | inside
    assert kinds == set(m.Message.__subclasses__())


def test_a_message_of_a_later_version_may_have_more_fields() -> None:
    longer = bytes.fromhex("95c410" + OPENING.hex() + "09c400a0c3")
    assert m.decode(m.SessionOpened, longer) == m.SessionOpened(OPENING, 9, b"")


@pytest.mark.parametrize("content", ["", "c0", "90", "93c0c0c0", "93c4100009", "ff" * 9])
def test_what_is_no_message_is_refused(content: str) -> None:
    with pytest.raises(InvalidParameter):
        m.decode(m.SessionOpened, bytes.fromhex(content))


def test_the_list_of_members_has_these_bytes() -> None:
    members = Members(cluster=ID, generation=3, next_number=4, members=(Entry(ID, "alpha", 1),))
    content = (
        f'{{"cluster":"{ID}","generation":3,"next_number":4,'
        f'"members":[{{"id":"{ID}","name":"alpha","number":1}}]}}'
    )
    assert encode_members(members) == content.encode()
    assert decode_members(content.encode()) == members
    assert decode_members(b"") is None
    assert decode_members(b"{") is None


def test_keys_and_cursors_in_urls() -> None:
    assert key_text("a/ü?".encode()) == "YS_DvD8="
    assert parse_key("YS_DvD8=") == "a/ü?".encode()
    assert parse_key("") == b""
    assert cursor_text(Cursor(OPENING, 9)) == f"{OPENING.hex()}.9"
    assert parse_cursor(f"{OPENING.hex()}.9") == Cursor(OPENING, 9)
    assert (cursor_text(NOWHERE), parse_cursor("")) == ("", NOWHERE)
    for text in ("x", f"{OPENING.hex()}.", f"{OPENING.hex()}.-1", f"{OPENING.hex()}.{1 << 64}"):
        with pytest.raises(InvalidParameter):
            parse_cursor(text)
    for text in ("YQ", "ü", "a b=", "YS/DvD8="):
        with pytest.raises(InvalidParameter):
            parse_key(text)
