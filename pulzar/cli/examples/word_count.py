"""Counts the words of a text. With --map it does so for every key under a prefix, each on a node
that has the key:

pulzar job launch examples/word_count --map texts/ --wait
"""

from pulzar import job


def execute(arguments):
    """The lines and the words of the value of a key."""
    with open(job.open(arguments["key"]), encoding="utf-8", errors="replace") as file:
        lines = file.readlines()
    return {"key": arguments["key"], "lines": len(lines), "words": sum(map(count, lines))}


def count(line):
    """The words of a line."""
    return len(line.split())
