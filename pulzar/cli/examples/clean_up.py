"""Deletes what is older than some days under a prefix. Every night:

pulzar job launch examples/clean_up prefix=logs/ days=30 --cron "30 3 * * *"
"""

from datetime import datetime, timedelta, timezone

from pulzar import job
from pulzar.errors import ConditionFailed, KeyNotFound


def execute(arguments):
    """The number of keys that were deleted. Without a prefix nothing is deleted."""
    prefix, days = arguments["prefix"], float(arguments["days"])
    if not prefix:
        raise ValueError("name a prefix: an empty one is everything")
    oldest = datetime.now(timezone.utc) - timedelta(days=days)
    deleted = 0
    with job.client() as client:
        for listed in client.list_keys(prefix):
            try:
                known = client.stat(listed.key)
                if known.modified is None or known.modified >= oldest:
                    continue
                client.delete(listed.key, if_match=known.etag)
            except (KeyNotFound, ConditionFailed):
                continue  # somebody deleted or replaced it just now
            deleted += 1
            print("deleted", listed.key)
    return {"deleted": deleted}
