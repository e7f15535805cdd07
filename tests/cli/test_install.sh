#!/bin/sh
# What is installed is enough to build and run the examples.
. tests/cli/lib.sh
needs cmake pkg-config make
[ -z "${LUTRA_SANITIZE:-}" ] || { echo 'skipped: an instrumented library needs instrumented programs'; exit 77; }
prefix=$work/prefix
shown="cmake --install $LUTRA_BUILD"
cmake --install "${LUTRA_BUILD:?}" --prefix "$prefix" >"$work/out" 2>"$work/err" || { fail 'expected to install'; finish; }

lib=$(dirname "$(find "$prefix" -name liblutra.so)")
for file in "$prefix/bin/lutra" "$prefix/include/lutra/lutra.h" "$lib/liblutra.a" "$lib/pkgconfig/lutra.pc" \
    "$prefix/share/man/man1/lutra.1" "$prefix/share/bash-completion/completions/lutra.bash" \
    "$prefix/share/zsh/site-functions/_lutra" "$prefix/share/fish/vendor_completions.d/lutra.fish"; do
    [ -s "$file" ] || fail "expected $file to be installed"
done
"$prefix/bin/lutra" --version >"$work/out" || fail 'expected the installed program to run'

cp examples/* "$work"
export PKG_CONFIG_PATH="$lib/pkgconfig" LD_LIBRARY_PATH="$lib"
shown='make -C examples'
make -s -C "$work" CC="${CC:-cc}" CFLAGS='-O1 -Wall -Wextra -Werror' >"$work/out" 2>"$work/err" || { fail 'expected the examples to build'; finish; }

shown=generate
"$work/generate" "$MODEL" 'The' 12 >"$work/out" 2>"$work/err"
status=$?
expect_status 0
"$LUTRA" run "$MODEL" -p 'The' -n 12 -q --echo >"$work/want"
cmp -s "$work/out" "$work/want" || fail 'expected the example to write what lutra run writes'

shown=quantize_matrix
"$work/quantize_matrix" >"$work/out" 2>"$work/err"
status=$?
expect_status 0
awk '/same rounded/ { exact = $NF } /float weights/ { rounded = $NF }
    END { exit !(exact < 1e-5 && rounded > 1e-3 && rounded < 0.2) }' "$work/out" || fail 'expected small errors'

# The static library, with what lutra.pc says it needs.
shown='cc -static library'
# shellcheck disable=SC2046 # words on purpose
"${CC:-cc}" -std=c17 $(pkg-config --cflags lutra) "$work/quantize_matrix.c" "$lib/liblutra.a" \
    $(pkg-config --libs --static lutra | sed 's/-llutra//') -o "$work/static" 2>"$work/err" || fail 'expected to link liblutra.a'
finish
