#!/bin/sh
# Output that cannot be written is a failure with a message; a reader that leaves is no crash.
. tests/cli/lib.sh

if [ -c /dev/full ]; then
    for command in "--help" "--version" "inspect $MODEL --tensors" "man" "completion zsh" \
        "run $MODEL -p x -n 2 -q" "eval $MODEL --text CONTRIBUTING.md --window 16 --max-windows 1 -q"; do
        shown="lutra $command >/dev/full"
        : >"$work/out"
        # shellcheck disable=SC2086 # words on purpose
        "$LUTRA" $command >/dev/full 2>"$work/err"
        status=$?
        expect_status 1
        expect_err 'standard output: cannot write: '
    done
fi

shown='lutra inspect | head -n 1'
{ "$LUTRA" inspect "$MODEL" --tensors; echo $? >"$work/status"; } 2>"$work/err" | head -n 1 >"$work/out"
status=$(cat "$work/status")
[ "$status" -le 1 ] || fail 'expected exit status 0 or 1'
expect_no_err

# A long answer ends when nobody reads it any more.
shown='lutra run | head -c 1'
{ "$LUTRA" run "$MODEL" -q -p 'The' -n 0 --ignore-eos; echo $? >"$work/status"; } 2>"$work/err" | head -c 1 >/dev/null
status=$(cat "$work/status")
expect_status 1
expect_no_err
finish
