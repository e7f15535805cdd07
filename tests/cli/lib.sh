# shellcheck shell=sh disable=SC2034 # MODEL is for the tests
# lib.sh - helpers of the command line tests; each test_*.sh begins with `. tests/cli/lib.sh`.
# LUTRA is the program. A test runs it with `run`, states what it expects, and ends with `finish`.
set -u
: "${LUTRA:?names the program to test}"
MODEL=${LUTRA_TEST_MODEL:-models/llama-8m}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0
shown='(nothing ran yet)'
status=0

# run ARGS...: standard output to $work/out, standard error to $work/err, exit status to $status.
# Standard input is $work/in if the test made one, else empty.
run() {
    shown="lutra $*"
    if [ -f "$work/in" ]; then
        "$LUTRA" "$@" >"$work/out" 2>"$work/err" <"$work/in"
    else
        "$LUTRA" "$@" >"$work/out" 2>"$work/err" </dev/null
    fi
    status=$?
}

fail() {
    failures=$((failures + 1))
    echo "FAILED: $*"
    echo "  after: $shown (exit $status)"
    head -n 15 "$work/out" 2>/dev/null | sed 's/^/  out: /'
    head -n 15 "$work/err" 2>/dev/null | sed 's/^/  err: /'
}

expect_status() { [ "$status" -eq "$1" ] || fail "expected exit status $1"; }
expect_out() { grep -q -- "$1" "$work/out" || fail "expected '$1' on standard output"; }
expect_err() { grep -q -- "$1" "$work/err" || fail "expected '$1' on standard error"; }
expect_no_out() { [ ! -s "$work/out" ] || fail 'expected nothing on standard output'; }
expect_no_err() { [ ! -s "$work/err" ] || fail 'expected nothing on standard error'; }
expect_json() { python3 -m json.tool <"$work/out" >/dev/null 2>&1 || fail 'expected one JSON value on standard output'; }

# json EXPRESSION: prints a Python expression over the object `o` on standard output.
json() { python3 -c "import json,sys; o=json.load(open(sys.argv[1])); print(($1))" "$work/out" 2>/dev/null; }
expect_value() { [ "$(json "$1")" = "$2" ] || fail "expected $1 to be $2, it is '$(json "$1")'"; }

# usage_error PATTERN ARGS...: refused as bad usage, on standard error only.
usage_error() {
    pattern=$1
    shift
    run "$@"
    expect_status 2
    expect_err "$pattern"
    expect_no_out
}

needs() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 || { echo "skipped: $tool is missing"; exit 77; }
    done
}

finish() {
    [ "$failures" -eq 0 ] || { echo "$failures expectations failed"; exit 1; }
    exit 0
}
