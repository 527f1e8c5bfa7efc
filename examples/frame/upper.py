#!/usr/bin/env python3
"""A program of mode: frame. Lines in upper case; long ones go out on port big too."""
import json
import sys


def handle(record):
    """What is made of a record: outputs, each a dict with a body, and what else an answer may have."""
    body = record["body"].upper()
    if not body:
        raise ValueError("an empty line")
    yield {"body": body}
    if len(body) > 20:
        yield {"body": body, "port": "big"}


def answer(id, **fields):
    print(json.dumps({"id": id, **fields}), flush=True)


for line in sys.stdin:
    record = json.loads(line)
    try:
        for output in handle(record):
            answer(record["id"], **output)
        answer(record["id"], done=True)
    except Exception as e:
        # "retry": True asks for later, and blames nobody; without either it is an attempt.
        answer(record["id"], error=repr(e), poison=isinstance(e, ValueError))
