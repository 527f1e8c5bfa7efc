#!/usr/bin/env bash
# Runs the demo: numbers flow through workers that take their time, and the logger stops for a second
# of every three. What it could not take waits upstream, at the tap at last: nothing is lost.
#
# Needs Go, bash and coreutils; takes some 20 seconds. Exits 0 if every number that was to arrive did.
set -eu
cd "$(dirname "$0")"
count=${1:-150}
dir=$(mktemp -d)
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null || true; rm -rf "$dir"' EXIT
export XDG_RUNTIME_DIR=$dir/run # a socket of our own: another weir of yours is not asked
mkdir -m 700 "$dir/run"

(cd ../.. && go build -o "$dir/weir" ./cmd/node)
seq 1 "$count" >"$dir/numbers"
"$dir/weir" up weir.yaml <"$dir/numbers" >"$dir/out" 2>"$dir/log" &
running=$!
until "$dir/weir" pause demo/logger >/dev/null 2>&1; do
  kill -0 "$running" || { cat "$dir/log"; exit 1; }
  sleep 0.1
done
while kill -0 "$running" 2>/dev/null; do
  echo "the logger pauses with $(wc -l <"$dir/out") numbers"
  sleep 1
  "$dir/weir" resume demo/logger || break # it has finished meanwhile
  sleep 2
  "$dir/weir" pause demo/logger || break
done 2>/dev/null
"$dir/weir" resume demo/logger >/dev/null 2>&1 || true
wait "$running" || { cat "$dir/log"; exit 1; }
running=
seq 1 "$count" | grep -v '7$' | sed 's/^/number /' | sort >"$dir/want"
sort -u "$dir/out" | cmp - "$dir/want"
tail -n +1 "$dir/log"
echo "all $(wc -l <"$dir/want") numbers that were to arrive did"
