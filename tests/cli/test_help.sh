#!/bin/sh
# Help, completion and manual page are made from the same tables: every option is in all of them.
. tests/cli/lib.sh

run --help
expect_status 0
expect_no_err
commands=$(sed -n '/^commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' "$work/out")
[ "$(echo "$commands" | wc -l)" -ge 5 ] || fail 'expected at least five commands in the overview'
run help
expect_status 0
expect_out '^commands:'

"$LUTRA" completion bash >"$work/bash" || fail 'completion bash'
"$LUTRA" completion zsh >"$work/zsh" || fail 'completion zsh'
"$LUTRA" completion fish >"$work/fish" || fail 'completion fish'
"$LUTRA" man >"$work/man" || fail 'man'
sed 's/\\-/-/g; s/\\f[BIR]//g' "$work/man" >"$work/man.text"

for command in $commands; do
    run "$command" --help
    expect_status 0
    expect_no_err
    expect_out "^usage: lutra $command"
    expect_out '^examples:'
    cp "$work/out" "$work/help"
    run help "$command"
    cmp -s "$work/out" "$work/help" || fail "expected 'help $command' to equal '$command --help'"
    grep -o '^  ....--[a-z-]*' "$work/help" | sed 's/.*--//' >"$work/options"
    [ -s "$work/options" ] || fail "expected options in the help of $command"
    grep "^    $command) words=" "$work/bash" | tr " '" '\n' | sed -n 's/^--//p' >"$work/bash.options"
    sort "$work/options" >"$work/a"
    sort "$work/bash.options" >"$work/b"
    cmp -s "$work/a" "$work/b" || fail "expected bash completion of $command to know the options of its help"
    sed -n "/^    $command)$/,/;;/s/.*'\**--\([a-z-]*\)=*\[.*/\1/p" "$work/zsh" | sort >"$work/b"
    cmp -s "$work/a" "$work/b" || fail "expected zsh completion of $command to know the options of its help"
    sed -n "s/.*from $command' -l \([a-z-]*\).*/\1/p" "$work/fish" | sort >"$work/b"
    cmp -s "$work/a" "$work/b" || fail "expected fish completion of $command to know the options of its help"
    grep -q "^.SS \"lutra $command" "$work/man.text" || fail "expected $command in the manual page"
    while read -r option; do
        grep -q -- "--$option" "$work/man.text" || fail "expected --$option in the manual page"
    done <"$work/options"
done

# The scripts are valid for their shells, where these are installed.
for shell in bash zsh fish; do
    command -v "$shell" >/dev/null 2>&1 || continue
    "$shell" -n "$work/$shell" || fail "expected $shell to accept its completion script"
done
complete_bash() { # words typed so far, the last one unfinished
    bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _lutra; printf "%s\n" "${COMPREPLY[@]}"' \
        bash "$work/bash" "$@"
}
if command -v bash >/dev/null 2>&1; then
    [ "$(complete_bash lutra quan)" = quantize ] || fail 'expected quan to complete to quantize'
    [ "$(complete_bash lutra quantize --gr)" = --group-size ] || fail 'expected --gr to complete to --group-size'
    [ "$(complete_bash lutra eval --dtype fp3)" = fp32 ] || fail 'expected --dtype fp3 to complete to fp32'
fi
finish
