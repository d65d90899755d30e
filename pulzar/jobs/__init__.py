"""The job system: Python scripts run on the nodes that hold the data.

launch.py    what a client asks for, checked
scripts.py   the scripts of a site, by the hash of their directory
record.py    a job, as VariDB keeps it
states.py    what can become of it
ledger.py    all jobs of a site: nothing is true before it is durable
schedule.py  when a schedule launches its job
maps.py      many jobs in one call
timetable.py the schedules of a site
dispatch.py  what becomes of jobs, and of those who run them
queue.py     those that wait
workforce.py who is there
engine.py    what says which job goes to which agent:
local.py     the engine that needs nothing else
dask_engine.py     the engine that leaves it to dask.distributed
dask_scheduler.py  its scheduler, a process
dask_worker.py     an agent that has joined it
dask_lines.py      what the two processes say to each other
certificates.py    who may join it
messages.py  what an agent and the master say to each other
held.py      orders that wait at an agent
begun.py     what an agent has begun, for the next one
agent.py     runs jobs on a node, in the warm child processes of slot.py and child.py
"""
