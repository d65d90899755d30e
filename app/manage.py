#!/usr/bin/env python3
"""Look after a site of Pulzar, with the standard library alone.

    python3 manage.py --restore VOLUME_URL

VOLUME_URL is host, host:port or a URL. A master that was started with the key of the cluster and
nothing else learns from that volume who the others are, and reads everything from all of them; this
shows how far it is and ends when it is done. The master is the one of config/server.conf beside
this file, unless --master names another. Exit code 0: done; 1: not; 2: wrong use.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Dict

POLL_S = 0.2
BAR_COLUMNS = 40
TIMEOUT_S = 30


def main() -> int:
    """Parse the command line and do what it says; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--restore",
        metavar="VOLUME_URL",
        required=True,
        help="read everything from the volumes again, beginning with this one",
    )
    parser.add_argument(
        "--master", metavar="URL", help="where the master answers; default: config/server.conf"
    )
    parser.add_argument(
        "--wait",
        metavar="S",
        type=float,
        default=600.0,
        help="give up after so many seconds without progress (600)",
    )
    asked = parser.parse_args()
    master = asked.master or master_url()
    try:
        return restore(master, asked.restore, asked.wait)
    except (OSError, ValueError) as error:
        print(f"manage.py: the master at {master}: {explained(error)}", file=sys.stderr)
        return 1


def master_url() -> str:
    """The URL of the master that server.conf names."""
    here = os.path.dirname(os.path.abspath(__file__))
    settings = configparser.ConfigParser(inline_comment_prefixes=("#", ";"), strict=False)
    settings.read(os.path.join(here, "config", "server.conf"))
    host = settings.get("server", "host", fallback="127.0.0.1")
    port = settings.get("server", "port", fallback="9000")
    if host in ("0.0.0.0", "::"):  # noqa: S104  # to compare
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def restore(master: str, volume: str, patience_s: float) -> int:
    """Let the master look at the volume; show how far it is until it is done."""
    url = master.rstrip("/") + "/admin/restore"
    body = json.dumps({"volume": volume}).encode()
    progress = ask(urllib.request.Request(url, data=body, method="POST"))
    seen, moved_s = -1, time.monotonic()
    while not progress["ready"]:
        followed = sum(node["followed"] for node in progress["nodes"])
        if followed != seen:
            seen, moved_s = followed, time.monotonic()
        elif time.monotonic() - moved_s > patience_s:
            break
        show(progress)
        time.sleep(POLL_S)
        progress = ask(urllib.request.Request(url))
    show(progress, last=True)
    print(progress["sentence"])
    return 0 if progress["ready"] else 1


def ask(request: urllib.request.Request) -> Dict[str, Any]:
    """The JSON that the master answers."""
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        progress: Dict[str, Any] = json.load(answer)
        return progress


def show(progress: Dict[str, Any], *, last: bool = False) -> None:
    """Draw a bar over the line before; where nobody watches, only the last one."""
    if not (last or sys.stderr.isatty()):
        return
    followed = sum(node["followed"] for node in progress["nodes"])
    total = max(sum(node["total"] for node in progress["nodes"]), followed)
    done = sum(node["done"] for node in progress["nodes"])
    share = 1.0 if progress["ready"] else (followed / total if total else 0.0)
    filled = int(share * BAR_COLUMNS)
    bar = "#" * filled + "." * (BAR_COLUMNS - filled)
    line = f"[{bar}] {share:4.0%}  {followed} of {total} records"
    line += f", {done} of {len(progress['nodes'])} volumes"
    start = "\r" if sys.stderr.isatty() else ""
    print(start + line, end="\n" if last else "", file=sys.stderr, flush=True)


def explained(error: Exception) -> str:
    """What went wrong, in the master's words where it has some."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.load(error)["detail"])
        except (ValueError, KeyError):
            return f"the master answered {error.code}"
    return str(getattr(error, "reason", None) or error)


if __name__ == "__main__":
    sys.exit(main())
