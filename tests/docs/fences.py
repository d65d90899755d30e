"""The code blocks of the documentation, and what stands before them.

A block is run unless an HTML comment on the line before it says otherwise:

    <!-- not run: why -->              left out; test_commands.py lists those that are allowed
    <!-- with the server stopped -->   run between a stop and the next start of the server

A `text` block that follows a `sh` block at once is what the commands print; `...` in it stands
for anything.
"""

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT_BEFORE = re.compile(r"<!-- (?:not run: (?P<reason>.+?)|(?P<stopped>.*stopped)) -->\n+\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, what it holds, and how it is run."""

    path: str
    line: int
    language: str
    text: str
    not_run: str
    stopped: bool
    printed: str | None

    @property
    def first(self) -> str:
        """Its first command, without a comment behind it."""
        return self.text.partition("\n")[0].partition("  #")[0].rstrip()

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def documents() -> list[str]:
    """Every page for people, as a path from the root of the repository."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(str(page.relative_to(ROOT)) for page in pages)


def blocks(path: str, content: str) -> list[Block]:
    """All fenced blocks of one page, in order."""
    found: list[Block] = []
    fences = list(FENCE.finditer(content))
    for fence, following in zip_longest(fences, fences[1:]):
        comment = COMMENT_BEFORE.search(content, 0, fence.start())
        adjacent = following and not content[fence.end() : following.start()].strip()
        prints = following is not None and adjacent and following[1] == "text"
        found.append(
            Block(
                path=path,
                line=content.count("\n", 0, fence.start()) + 1,
                language=fence[1],
                text=fence[2],
                not_run=(comment["reason"] or "") if comment else "",
                stopped=bool(comment and comment["stopped"]),
                printed=following[2] if following is not None and prints else None,
            )
        )
    return found


def commands(path: str) -> list[Block]:
    """The `sh` blocks of a page of this repository."""
    content = (ROOT / path).read_text()
    return [block for block in blocks(path, content) if block.language == "sh"]


def matches(printed: str, expected: str) -> bool:
    """Whether a program printed what the page says; `...` stands for anything."""
    pattern = ".*".join(map(re.escape, expected.rstrip().split("...")))
    return re.fullmatch(pattern, printed.rstrip(), re.DOTALL) is not None
