"""The benchmark: Pulzar beside nginx and etcd, on this machine, in this minute.

`python -m bench` measures every row of the table of figures and says how far each is from its
floor and its goal. README.md here says what is compared and why that is fair.

    figures.py     what is measured and what is wanted; medians, ratios, verdicts (pure)
    report.py      the tables and RESULTS.md (pure)
    machine.py     what this machine is: processor, memory, filesystem, one fdatasync
    generator.py   the load generator kvbench.c: build it, run it, read its report
    servers.py     Pulzar, nginx and etcd on free ports with data directories of their own
    memory.py      memory of a server, sampled while it works
    context.py     what every row is given: where, how long, with what
    rows/          one file per group of rows
"""
