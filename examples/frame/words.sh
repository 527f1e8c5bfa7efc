#!/bin/sh
# A program of mode: frame, of jq alone: each word of a record is an output; a record without words is
# bad data, a dead letter.
exec jq --unbuffered --compact-output '
  .id as $id
  | [.body | scan("[[:alpha:]]+")]
  | if . == [] then {id: $id, error: "no words in it", poison: true}
    else (.[] | {id: $id, body: .}), {id: $id, done: true} end'
