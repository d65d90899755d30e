"""The job system: Python scripts run on the nodes that hold the data.

launch.py    what a client asks for, checked
scripts.py   the scripts of a site, by the hash of their directory
record.py    a job, as VariDB keeps it
states.py    what can become of it
ledger.py    all jobs of a site: nothing is true before it is durable
schedule.py  when a schedule launches its job
maps.py      many jobs in one call
timetable.py the schedules of a site
local.py     the engine: which job goes to which free slot
messages.py  what an agent and the master say to each other
begun.py     what an agent has begun, for the next one
agent.py     runs jobs on a node, in the warm child processes of slot.py and child.py
"""
