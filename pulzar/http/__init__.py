"""HTTP: the ASGI application, one file per resource, and the server that runs it.

app.py          what answers at which path; the one place that catches errors
keys.py         PUT /add_key/, GET and HEAD /get_key/, DELETE /delete_key/
values.py       sends a value: whole, one range, several ranges; from memory or as a stream
sending.py      long answers in pieces, as their clients take them; their memory is bounded
body.py         reads a request's body: length, time and memory are bounded
listing.py      GET /list_keys/
batch.py        POST /batch;  batch_wire.py is its shape in MessagePack and JSON
admin.py        /admin/status, /admin/compact, /healthz, /readyz
metrics.py      GET /metrics, and the counters behind it
problem.py      the one place that maps errors to answers
server.py       runs the application under Granian in this process

Pure parsers, no I/O in them: key_codec.py, query.py, conditions.py, ranges.py, dates.py.
"""
