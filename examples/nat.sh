#!/usr/bin/env bash
# Runs `hole_punching -- nat`: two network namespaces behind two NATs. Each of the three programs in it has to print its lines,
# in their order. Needs root, `ip`, `unshare` and `nft`; what is missing of these is installed by apt. Where namespaces cannot
# be made this is a failure, and with NETNS_REQUIRED=0 it says so and is skipped. With a number as argument: that many times.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. examples/matches_in_order.sh

limit=60 # seconds; it takes one on a quiet machine
output=$(mktemp)
trap 'rm -f "$output"' EXIT

if [ "$(id -u)" -ne 0 ] || ! unshare --net --mount --pid --fork true; then
    echo "hole_punching cannot be seen behind two NATs: root that may make network namespaces is needed"
    [ "${NETNS_REQUIRED:-}" = 0 ] || exit 1
    echo "SKIPPED hole_punching -- nat"
    exit 0
fi
if ! command -v ip >/dev/null || ! command -v nft >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iproute2 nftables
fi

# The addresses of the two homes in the internet: those of their NATs.
port='[0-9]+' ann='198\.51\.100\.11' bob='198\.51\.100\.12'

expect() {
    matches_in_order "$output" <(printf '%s\n' "$@") || { sed 's/^/    /' "$output"; echo "FAILED hole_punching -- nat"; exit 1; }
}

cargo build --quiet --example hole_punching
for _ in $(seq "${1:-1}"); do
    begun=$SECONDS
    if ! timeout "$limit" cargo run --quiet --example hole_punching -- nat </dev/null >"$output" 2>&1; then
        sed 's/^/    /' "$output"
        echo "FAILED hole_punching -- nat: exit code not 0, or longer than $limit s"
        exit 1
    fi
    expect '^rendezvous listens on 198\.51\.100\.1:7000$' \
        "^rendezvous (ann is at $ann:$port, bob at $bob:$port|bob is at $bob:$port, ann at $ann:$port)$" \
        '^rendezvous is gone$'
    expect "^ann +dialled $bob:$port from port $port: connected with dial [0-9]+$" \
        '^ann +takes bob for the Responder; by the names, it has to begin$' \
        '^ann +bob says "hello, ann"$'
    expect "^bob +dialled $ann:$port from port $port: connected with dial [0-9]+$" \
        '^bob +takes ann for the Responder; by the names, it has to wait$' \
        '^bob +ann says "hello, bob"$'
    echo "ok     hole_punching -- nat ($((SECONDS - begun)) s)"
done
