#!/usr/bin/env bash
# Lets a real openssl s_client talk to the example tls: as bob, without a certificate, with a foreign one, and expecting
# somebody else than ada. Needs the openssl program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
command -v openssl >/dev/null || { echo "there is no openssl program"; exit 1; }

place=$(mktemp -d)
ada=""
finish() {
    local code=$?
    [ -z "$ada" ] || kill -INT "$ada" 2>/dev/null || true
    [ "$code" -eq 0 ] || { sed 's/^/    ada: /' "$place/ada"; sed 's/^/    client: /' "$place/client"; }
    rm -rf "$place"
}
trap finish EXIT
: >"$place/ada"
: >"$place/client"

# Waits for a line in a file; the time that this takes depends on nothing but the machine.
wait_for() { # FILE PATTERN
    local deadline=$((SECONDS + 20))
    until grep -qE -- "$2" "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "FAILED: $1 has no line with: $2"; return 1; }
        sleep 0.05
    done
}

# Runs s_client with two lines to send; it stays until both are answered, or until it fails.
client() { # ARGUMENTS...
    local code=0
    : >"$place/client"
    { printf 'hello from openssl\nand goodbye\n'; wait_for "$place/client" '^you said: and goodbye|alert|error' || true; } |
        timeout 30 openssl s_client -connect "$addr" -servername ada -verify_return_error -quiet -no_ign_eof \
            -CAfile "$files/authority.pem" "$@" >>"$place/client" 2>&1 || code=$?
    return "$code"
}

refused() { # WHAT PATTERN ARGUMENTS...
    local what=$1 pattern=$2
    shift 2
    client "$@" || true
    ! grep -q '^welcome' "$place/client" || { echo "FAILED: $what was let in"; return 1; }
    grep -qE -- "$pattern" "$place/client" || { echo "FAILED: $what was not told: $pattern"; return 1; }
    echo "ok     $what is refused: $(grep -oEm1 -- "$pattern" "$place/client")"
}

cargo build --quiet --release --bin tls
program=$(cargo build --release --bin tls --message-format json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
"$program" >"$place/ada" 2>&1 &
ada=$!
wait_for "$place/ada" '^ +openssl s_client '
command=$(grep -E '^ +openssl s_client ' "$place/ada")
addr=$(sed -E 's/.*-connect ([^ ]+).*/\1/' <<<"$command")
files=$(dirname "$(sed -E 's/.*-CAfile ([^ ]+).*/\1/' <<<"$command")")
bob=(-cert "$files/bob.pem" -key "$files/bob.key" -verify_hostname ada)

client "${bob[@]}" || { echo "FAILED: s_client as bob gives exit code $?"; exit 1; }
for line in '^welcome' '^you said: hello from openssl' '^you said: and goodbye'; do
    grep -qE -- "$line" "$place/client" || { echo "FAILED: bob was not answered: $line"; exit 1; }
done
wait_for "$place/ada" 'bob is connected'
wait_for "$place/ada" 'is told "hello from openssl"'
wait_for "$place/ada" 'has gone'
echo "ok     openssl as bob is known by name, and answered"

client "${bob[@]}" -tls1_3 || { echo "FAILED: s_client -tls1_3 gives exit code $?"; exit 1; }
echo "ok     openssl speaks TLS 1.3 with ada"

refused "openssl without a certificate" 'alert certificate required' -verify_hostname ada
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=bob -addext subjectAltName=DNS:bob \
    -keyout "$place/other.key" -out "$place/other.pem" 2>/dev/null
refused "openssl with a certificate of its own" 'alert (unknown ca|decrypt error|bad certificate|certificate unknown)' \
    -cert "$place/other.pem" -key "$place/other.key" -verify_hostname ada
refused "TLS 1.2" 'alert protocol version' "${bob[@]}" -tls1_2
refused "a listener by another name" '[Hh]ostname mismatch' -cert "$files/bob.pem" -key "$files/bob.key" -verify_hostname carol

kill -INT "$ada"
code=0
wait "$ada" || code=$?
ada=""
[ "$code" -eq 0 ] || { echo "FAILED: ada ends with exit code $code"; exit 1; }
grep -q '^the end$' "$place/ada" || { echo "FAILED: ada did not say farewell"; exit 1; }
[ ! -e "$files" ] || { echo "FAILED: $files is left behind"; exit 1; }
echo "ok     ada ends tidily"
