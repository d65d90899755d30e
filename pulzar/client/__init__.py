"""The client: requests and answers without I/O, and a synchronous client over them.

requests.py   builds every request and reads every answer; pure functions, no network in it
batch.py      the same for `POST /batch`
sync.py       `Client`: sends the requests with urllib3, streams values, retries where it is safe
save.py       where a fetched value goes: a file that changes only as a whole, or a pipe
memory.py     what earlier transfers moved, so that a second one need not compare again
tree.py       directories up and down: what is skipped, what a key's file name is
process.py    `Server`: a `pulzar up` of one's own, for tools and tests
"""
