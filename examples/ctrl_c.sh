#!/usr/bin/env bash
# Starts each example that goes on until it is stopped, and each that has processes of its own, waits for a line that says
# that it is under way, and presses Ctrl-C: the signal goes to the whole process group, as a terminal sends it. Then the
# example has to say its last words and end with exit code 0, soon, and no process of its own may be left. An example that
# waits for Ctrl-C and has no row below is a failure. With names as arguments: only those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=20 # seconds, for the beginning as for the end; both take less than one on a quiet machine
unset EXAMPLE_SHORT
export RUST_BACKTRACE=0
scratch=$(mktemp -d)
leader=
trap '[ -z "$leader" ] || kill -KILL -- "-$leader" 2>/dev/null || true; rm -rf "$scratch"' EXIT
wanted=("$@")

# The processes of a session, whatever their groups.
members_of() {
    local stat rest
    for stat in /proc/[0-9]*/stat; do
        # The name in brackets may hold anything: the fields behind it count. A process may go while it is looked at.
        rest=$(cat "$stat" 2>/dev/null) || continue
        set -- "${rest%% *}" ${rest##*) }
        # State, parent, group, session; a zombie is only waited for.
        [ "$5" != "$leader" ] || [ "$2" = Z ] || echo "$1"
    done
}

# within_limit COMMAND...: whether it succeeds in time.
within_limit() {
    local begun=$SECONDS
    until "$@"; do
        [ $((SECONDS - begun)) -lt "$limit" ] || return 1
        sleep 0.02
    done
}

has_ended() { ! kill -0 "$leader" 2>/dev/null; }
nothing_left() { [ -z "$(members_of)" ]; }

failures=0 rows=()

# row NAME BEGINNING END [ARGUMENT...]: the regular expressions of a line that is waited for, and of one among the last three.
row() {
    local name=$1 beginning=$2 end=$3 output="$scratch/output" failure="" code=0
    rows+=("$name")
    shift 3
    [ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $name "* ]] || return 0

    # A session of its own, and not in the foreground, where stdin is a terminal's.
    setsid "$binaries/$name" "$@" <"$scratch/silence" >"$output" 2>&1 &
    leader=$!
    if ! within_limit grep -qE -- "$beginning" "$output"; then
        failure="it does not begin"
    else
        kill -INT -- "-$leader"
        if ! within_limit has_ended; then
            failure="it does not end"
        else
            wait "$leader" || code=$?
            if [ "$code" -ne 0 ]; then
                failure="exit code $code"
            elif ! tail -n 3 "$output" | grep -qE -- "$end"; then
                failure="no last words: $end"
            elif ! within_limit nothing_left; then
                failure="processes are left: $(members_of | xargs)"
            fi
        fi
    fi
    if [ -n "$failure" ]; then
        sed 's/^/    /' "$output"
        echo "FAILED Ctrl-C: $name $*: $failure"
        failures=$((failures + 1))
        # Only what this script has started: all of it is in this session.
        members_of | xargs -r kill -KILL 2>/dev/null || true
    else
        echo "ok     Ctrl-C: $name $*"
    fi
    leader=
}

cargo build --quiet --examples
binaries=$(cargo metadata --format-version 1 --no-deps | grep -oE '"target_directory":"[^"]*"' | cut -d'"' -f4)/debug/examples
# An input that neither ends nor says anything.
mkfifo "$scratch/silence"
exec {held}<>"$scratch/silence"
mkdir "$scratch/dir"

row c10k '^one process listens' '^the other process has ended$'
row c100k '^[0-9]+ processes listen' '^the [0-9]+ processes have ended$'
row chat '^\* you are ada' '^\* you left the room$' ada --listen 127.0.0.1:0
row churn '^100 clients' '^verified: as many ends as beginnings; no connection left$'
row dense_mesh '^200 nodes' '^the [0-9]+ processes have ended$'
row dining_philosophers '^5 philosophers' '^the restaurant closes$'
row file_transfer 'is offered at' '^no longer offered$' send Cargo.toml 127.0.0.1:0
row file_transfer 'trying again' '^the part that is here is kept' receive "$scratch/dir" 127.0.0.1:9
row hole_punching 'listens on' 'is gone$' rendezvous 127.0.0.1:0
row hot_potato '^round 1' '^the potato is put down; nobody wins$'
row lan_discovery 'listens on' '^node .* is gone$' --broadcast 127.255.255.255
row metrics '^serving at' '^no more metrics$' 127.0.0.1:0
row reconnect '^serving at' '^the server is gone$' --serve 127.0.0.1:0
row reconnect 'next dial' '^the link is given up$' 127.0.0.1:9

# What waits for Ctrl-C only to report that a demonstration was interrupted is over by itself, and has no row.
for file in $(grep -lE 'ctrl_c\(\)' examples/*.rs examples/*/main.rs); do
    name=$(basename "${file%/main.rs}" .rs)
    if grep -E 'ctrl_c\(\)' "$file" | grep -qv '"interrupted"' && [[ " ${rows[*]} " != *" $name "* ]]; then
        echo "FAILED $file waits for Ctrl-C, and has no row in ${BASH_SOURCE[0]}"
        failures=$((failures + 1))
    fi
done
[ "$failures" -eq 0 ] || { echo "$failures failures with Ctrl-C"; exit 1; }
