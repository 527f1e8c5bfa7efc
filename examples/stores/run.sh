#!/usr/bin/env bash
# Runs the example in a directory of its own and looks into the table: each order is a row, once.
#
# Needs Go, bash, awk, grep and python3; takes some 10 seconds.
set -eu
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export XDG_RUNTIME_DIR=$dir/run # a socket of our own
mkdir -m 700 "$dir/run"
cp weir.yaml "$dir"
(cd ../.. && go build -o "$dir/weir" ./cmd/node)
cd "$dir"
./weir up weir.yaml
python3 - <<'PYTHON'
import json, sqlite3
orders = [json.loads(body) for (body,) in sqlite3.connect("orders.db").execute("SELECT body FROM orders")]
assert sorted(o["order"] for o in orders) == list(range(1, 20001)), len(orders)
large = sorted(json.loads(line)["order"] for line in open("billing.txt"))
assert large == sorted(o["order"] for o in orders if o["amount"] >= 990), len(large)
print(f"{len(orders)} orders are in the table, {len(large)} large ones went to billing")
PYTHON
