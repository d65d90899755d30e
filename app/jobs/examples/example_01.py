"""Adds up its arguments.

curl -X POST http://127.0.0.1:9000/launch_job/examples/example_01 -d '{"arg1": 12, "arg2": 30}'
"""


def execute(arguments):
    """Numbers, also as text, to their sum."""
    print("adding", arguments)
    return {"sum": sum(int(number) for number in arguments.values())}
