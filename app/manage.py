#!/usr/bin/env python3
"""Look after a site of Pulzar, with the standard library alone.

    python3 manage.py --restore VOLUME_URL

VOLUME_URL is host, host:port or a URL. A master that was started with the key of the cluster and
nothing else learns from that volume who the others are, and reads everything from all of them; this
shows how far it is and ends when it is done. The master is the one of config/server.conf beside
this file, unless --master names another. Exit code 0: done; 1: not; 2: wrong use.
"""

import argparse
import configparser
import json
import os
import sys
import time
import urllib.error
import urllib.request

POLL_S = 0.2
BAR_COLUMNS = 40
TIMEOUT_S = 30


def main():
    """Parse the command line and do what it says; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--restore", metavar="VOLUME_URL", required=True,
                        help="read everything from the volumes again, beginning with this one")
    parser.add_argument("--master", metavar="URL",
                        help="where the master answers; default: config/server.conf")
    parser.add_argument("--wait", metavar="S", type=float, default=600.0,
                        help="give up after so many seconds without progress (600)")
    asked = parser.parse_args()
    try:
        return restore(asked.master or master_url(), asked.restore, asked.wait)
    except (OSError, ValueError) as error:
        print("manage.py: %s" % explained(error), file=sys.stderr)
        return 1


def master_url():
    """The URL of the master that server.conf names."""
    here = os.path.dirname(os.path.abspath(__file__))
    settings = configparser.ConfigParser(inline_comment_prefixes=("#", ";"), strict=False)
    settings.read(os.path.join(here, "config", "server.conf"))
    host = settings.get("server", "host", fallback="127.0.0.1")
    port = settings.get("server", "port", fallback="9000")
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return "http://%s:%s" % ("[%s]" % host if ":" in host else host, port)


def restore(master, volume, patience_s):
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
    show(progress)
    print(file=sys.stderr)
    print(progress["sentence"])
    return 0 if progress["ready"] else 1


def ask(request):
    """The JSON that the master answers."""
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def show(progress):
    """Draw a bar over the line before."""
    followed = sum(node["followed"] for node in progress["nodes"])
    total = max(sum(node["total"] for node in progress["nodes"]), followed)
    done = sum(node["done"] for node in progress["nodes"])
    share = 1.0 if progress["ready"] else (followed / total if total else 0.0)
    filled = int(share * BAR_COLUMNS)
    line = "[%s%s] %3d%%  %d of %d records, %d of %d volumes" % (
        "#" * filled, "." * (BAR_COLUMNS - filled), share * 100, followed, total, done,
        len(progress["nodes"]))
    print("\r" + line, end="", file=sys.stderr, flush=True)


def explained(error):
    """What went wrong, in the master's words where it has some."""
    if isinstance(error, urllib.error.HTTPError):
        try:
            return json.load(error)["detail"]
        except (ValueError, KeyError):
            return "the master answered %s" % error.code
    return getattr(error, "reason", None) or error


if __name__ == "__main__":
    sys.exit(main())
