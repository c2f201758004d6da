#!/usr/bin/env bash
# What surrounds the code: spelling, documents, licences and sources of dependencies, unused dependencies, the public API as listed,
# features, the lints of the packages that no other step of .ci/run builds, and the lower bounds of dependencies. Installs its tools
# (versions below) into the target directory. Stops at the first step that fails.
#
# With --update-public-api it writes docs/public-api.txt anew and does nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0

tools="$CARGO_TARGET_DIR/hygiene/tools"
deny_version=0.20.2 machete_version=0.9.2 typos_version=1.52.0
mapfile -t manifests < <(git ls-files 'Cargo.toml' '*/Cargo.toml')

step="before the first step"
trap 'code=$?; [ "$code" -eq 0 ] || echo "FAILED (exit code $code): $step"' EXIT

part() {
    step=$1
    printf '\n--- [%02d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$step"
}

# Not optimised: what they do takes seconds, and building them would take minutes. Nothing is done for a version that is there.
install_tools() {
    if ! command -v python3 >/dev/null || ! python3 -m pip --version >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-pip
    fi
    local tool
    for tool in "cargo-machete@$machete_version" "cargo-deny@$deny_version"; do
        CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$CARGO_TARGET_DIR/hygiene/build" \
            cargo install --quiet --locked --debug --root "$tools" "$tool"
    done
    if [ "$("$tools/typos/bin/typos" --version 2>/dev/null)" != "typos-cli $typos_version" ]; then
        rm -rf "$tools/typos"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
            --only-binary :all: --no-deps --target "$tools/typos" "typos==$typos_version"
    fi
    export PATH="$tools/bin:$tools/typos/bin:$PATH"
    cargo machete --version
    cargo deny --version
    typos --version
}

check_licences() {
    local manifest strict
    for manifest in "${manifests[@]}"; do
        # The crate itself brings no crate in two versions; for the other packages that is not ours to choose.
        strict=()
        [ "$manifest" != Cargo.toml ] || strict=(--deny duplicate)
        echo "$manifest"
        cargo deny --log-level error --all-features --locked --manifest-path "$manifest" --config deny.toml \
            check "${strict[@]}" --hide-inclusion-graph bans licenses sources
    done
}

# The database of known vulnerabilities comes from another site than the crates, which not every machine reaches.
check_advisories() {
    if timeout 120 cargo deny --locked --config deny.toml fetch db >"$CARGO_TARGET_DIR/hygiene/fetch.log" 2>&1; then
        cargo deny --locked --config deny.toml check --disable-fetch --hide-inclusion-graph advisories
    elif [ -n "${ADVISORIES_REQUIRED:-}" ]; then
        cat "$CARGO_TARGET_DIR/hygiene/fetch.log"
        return 1
    else
        echo "NOT CHECKED: known vulnerabilities of dependencies, because their database cannot be fetched from here."
        echo "Where it can be: cargo deny check advisories. With ADVISORIES_REQUIRED=1 this is a failure."
    fi
}

# rustdoc's JSON is not stable yet, hence RUSTC_BOOTSTRAP.
list_public_api() {
    RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$CARGO_TARGET_DIR/hygiene/api" \
        cargo rustdoc --quiet --lib --all-features -- -Z unstable-options --output-format json
    python3 .ci/public_api.py "$CARGO_TARGET_DIR/hygiene/api/doc/pea2pea.json"
}

check_public_api() {
    local found="$CARGO_TARGET_DIR/hygiene/public-api.txt"
    list_public_api >"$found"
    if ! diff -U0 --label docs/public-api.txt docs/public-api.txt --label "the code" "$found"; then
        echo "The public API is not the one listed in docs/public-api.txt. Lines with - are gone, lines with + are new: a line that is gone"
        echo "breaks the API line 0.57, one that is new needs a line in CHANGELOG.md. If it is meant: bash .ci/hygiene.sh --update-public-api"
        return 1
    fi
    echo "$(wc -l <"$found") lines, as listed"
}

# Without tests, examples and benches, so that dev-dependencies lend no features.
lint_features() {
    local manifest=$1 features
    shift
    for features in "$@"; do
        echo "$manifest: ${features:-no features}"
        cargo clippy --quiet --locked --manifest-path "$manifest" --no-default-features --features "$features" -- -D warnings
    done
}

check_features() {
    lint_features Cargo.toml "" test
    lint_features examples/secure/Cargo.toml "" programs
    # Not with libp2p, which takes minutes to build: tests/interop builds it, and whoever measures.
    lint_features benches/peers/Cargo.toml "" message-io secure tentacle
}

lint_other_packages() {
    local package
    for package in benches/idle benches/instructions benches/build_size/ours benches/build_size/published; do
        echo "$package"
        cargo clippy --quiet --locked --manifest-path "$package/Cargo.toml" --all-targets -- -D warnings
    done
    echo "benches/peers, without other crates"
    cargo clippy --quiet --locked --manifest-path benches/peers/Cargo.toml --no-default-features --all-targets -- -D warnings
    echo fuzz
    # cargo-fuzz sets the cfg. The path keeps libFuzzer itself from being built, which needs a C++ compiler; nothing is linked here.
    RUSTFLAGS="--cfg fuzzing" CUSTOM_LIBFUZZER_PATH="$CARGO_TARGET_DIR/hygiene/libfuzzer.a" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/hygiene/fuzz" \
        cargo clippy --quiet --locked --manifest-path fuzz/Cargo.toml --all-targets -- -D warnings
}

# Each direct dependency in the lowest version that Cargo.toml allows, in a copy, because this writes Cargo.lock.
check_lower_bounds() (
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    git ls-files -z | tar --null --files-from=- --create --ignore-failed-read | tar --extract --directory "$copy"
    cd "$copy"
    export CARGO_TARGET_DIR="$CARGO_TARGET_DIR/hygiene/lower_bounds"
    RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions
    cargo tree --edges normal,dev --depth 1 --prefix none
    cargo check --quiet --lib
    cargo test --quiet --lib
)

mkdir -p "$CARGO_TARGET_DIR/hygiene"

if [ "${1:-}" = --update-public-api ]; then
    step="writing docs/public-api.txt"
    list_public_api >"$CARGO_TARGET_DIR/hygiene/public-api.txt"
    cp "$CARGO_TARGET_DIR/hygiene/public-api.txt" docs/public-api.txt
    exit
fi

part "links, paths, code blocks and commands in the documents"
python3 .ci/docs.py

part "tools"
install_tools

part "spelling"
typos

part "unused dependencies"
cargo machete --with-metadata .

part "licences, sources and duplicates of dependencies"
check_licences

part "known vulnerabilities of dependencies"
check_advisories

part "the public API, as listed"
check_public_api

part "features"
check_features

part "lints of the other packages"
lint_other_packages

part "lower bounds of dependencies"
check_lower_bounds

part "done"
