#!/usr/bin/env bash
# Five machines, made of network namespaces on one: a node on each, started as a person would, a
# result that is compared, and then what goes wrong when nodes cannot find each other.
#
#	sudo examples/machines/run.sh [WEIR]
#
# WEIR is the program to try; without it, it is built. Needs root, ip (iproute2) and, for a firewall,
# nft (nftables): says what it skips without them. Leaves nothing behind. Takes some 20 s.
set -euo pipefail
cd "$(dirname "$0")"

skip() {
  echo "skipped: $*"
  exit 0
}
[ "$(id -u)" = 0 ] || skip "only root can make network namespaces"
command -v ip >/dev/null || skip "there is no ip, from iproute2"
work=$(mktemp -d)
net=weir-$$
pids=()
finish() {
  local code=$?
  [ $code = 0 ] || tail -n 30 "$work"/*/log >&2 || true
  exec 2>/dev/null # the shell would tell of each process that is killed
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait
  for ns in "$net" "$net"-{1..5}; do ip netns del "$ns" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT
ip netns add "$net" 2>/dev/null || skip "this kernel or container has no network namespaces"

weir=${1:-}
[ -n "$weir" ] || { (cd ../.. && go build -o "$work/weir" ./cmd/node) && weir=$work/weir; }
weir=$(realpath "$weir")

# The wire: a switch, and five machines at 10.77.0.1 to 10.77.0.5.
ip -n "$net" link add switch type bridge 2>/dev/null || skip "this kernel or container has no bridges"
ip -n "$net" link set switch up
for i in 1 2 3 4 5; do
  ip netns add "$net-$i"
  ip link add eth0 netns "$net-$i" type veth peer name "port$i" netns "$net"
  ip -n "$net" link set "port$i" master switch up
  ip -n "$net-$i" link set lo up
  ip -n "$net-$i" addr add "10.77.0.$i/24" dev eth0
  ip -n "$net-$i" link set eth0 up
  mkdir -p "$work/$i/run"
  chmod 700 "$work/$i/run"
  cp factors.yaml "$work/$i"
done

# become I COMMAND...: this shell becomes a command on machine I; on I COMMAND... runs one there.
become() {
  local i=$1
  shift
  cd "$work/$i"
  XDG_RUNTIME_DIR=$work/$i/run exec ip netns exec "$net-$i" "$@"
}
on() { (become "$@"); }
# node I [NAME=VALUE] ARG...: starts a node there, and goes on.
node() {
  local i=$1 secret=()
  shift
  [[ $1 != WEIR_SECRET=* ]] || { secret=("$1"); shift; }
  echo "10.77.0.$i\$ ${secret:+WEIR_SECRET=... }weir start $*"
  become "$i" env "${secret[@]}" "$weir" start "$@" >>"$work/$i/log" 2>&1 &
  pids+=($!)
}
# until_ok SECONDS WHAT COMMAND...: waits for a command to succeed.
until_ok() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "waited in vain for $what"; return 1; }
    sleep 0.1
  done
}

echo "== five nodes, started by hand"
seq 1000000 1200000 >"$work/1/numbers.txt"
node 1 --role numbers --file factors.yaml
until_ok 15 "the line to type elsewhere" grep -q WEIR_SECRET= "$work/1/log"
secret=$(grep -o 'WEIR_SECRET=[0-9a-f]*' "$work/1/log")
node 2 "$secret" --join 10.77.0.1:7411 --role factor -- factor
node 3 "$secret" --join 10.77.0.1:7411 --role factor -- factor
node 4 "$secret" --join 10.77.0.1:7411 --role out --file factors.yaml
node 5 "$secret" --join 10.77.0.1:7411

finished() { on 5 "$weir" status | grep -q '^factors  *finished' && on 5 "$weir" status | grep -q '3 of 3 voters alive'; }
until_ok 60 "the end of the pipeline" finished
echo "10.77.0.5\$ weir status"
on 5 "$weir" status
factor <"$work/1/numbers.txt" | LC_ALL=C sort >"$work/want"
LC_ALL=C sort "$work/4/factors.txt" | cmp - "$work/want"
echo "== the result is what factor <numbers.txt gives"

echo "== what a node says that finds nobody"
# says PORT WORDS: the node on that port of machine 5 says why it waits, once, and goes on.
says() {
  local log=$work/5/log-$1 found
  until_ok 10 "a line of the node on port $1" grep -q 'waiting for a cluster' "$log" || { cat "$log"; return 1; }
  found=$(grep 'level=WARN' "$log")
  echo "  ${found#*why=}"
  [ "$(wc -l <<<"$found")" = 1 ] || { echo "that is more than one line"; return 1; }
  grep -qF -- "$2" <<<"$found" || { echo "it does not say: $2"; return 1; }
}
# lost PORT NAME=VALUE ARG...: a node on that port of machine 5 that will not join.
lost() {
  local port=$1
  shift
  echo "10.77.0.5\$ ${1%%=*}=... weir start --listen :$port ${*:2}"
  become 5 env "$1" "$weir" start --listen ":$port" "${@:2}" >"$work/5/log-$port" 2>&1 &
  pids+=($!)
}
firewall=
if command -v nft >/dev/null; then
  firewall='table ip weir { chain in { type filter hook input priority 0; udp sport 8001 drop; }; }'
  ip netns exec "$net-1" nft "$firewall" 2>/dev/null || firewall=
fi
[ -n "$firewall" ] || echo "skipped: a firewall, since nft (nftables) is not there or does not work"
[ -z "$firewall" ] || lost 8001 "$secret" --join 10.77.0.1:7411
lost 8002 "WEIR_SECRET=$("$weir" cluster secret)" --join 10.77.0.1:7411
lost 8003 "$secret" --join 10.77.0.99:7411
lost 8004 "$secret" --join 10.77.0.2:9999
lost 8005 "$secret" --join no-such-machine.invalid:7411
[ -z "$firewall" ] || says 8001 "10.77.0.1:7411: no answer: is a node running there, is the address right, and its UDP port open in every firewall between?"
says 8002 "10.77.0.1:7411: the peer belongs to another cluster (other secret): give both the same secret"
says 8003 "10.77.0.99:7411: there is no way to that address: is it right, and the network up?"
says 8004 "10.77.0.2:9999: nobody listens on that UDP port: is the node started, and the port right?"
says 8005 "no-such-machine.invalid:7411: the name does not resolve, is it spelled right?"
echo "and the node that the wrong secret came to:"
grep 'connection refused' "$work/1/log" | sed 's/.*addr=/  /'
[ "$(grep -c 'connection refused' "$work/1/log")" = 1 ]
if [ -n "$firewall" ]; then
  ip netns exec "$net-1" nft delete table ip weir
  until_ok 20 "the node that was locked out, once it is let in" grep -q 'joined the cluster' "$work/5/log-8001"
  echo "== the firewall lets it in, and the first of them joins without being told again"
fi
