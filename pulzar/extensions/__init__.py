"""Extensions: your own module answers at your own URL.

    GET /third_party/{app_id}/{arg1}/{arg2}  ->  execute(["arg1", "arg2"]) of {app_id}.py  ->  JSON

loader.py finds the module, slots.py gives the call to a warm child process, child.py runs it
there; what a module may ask for is `pulzar.extension`. shipped/ has those that come with Pulzar.
"""
