#!/bin/sh
# The shared library exports lutra_* and nothing else, and all that the headers declare.
. tests/cli/lib.sh
needs nm
[ -z "${LUTRA_SANITIZE:-}" ] || { echo 'skipped: sanitizers add symbols'; exit 77; }
library=${LUTRA_BUILD:?}/src/liblutra.so
[ -e "$library" ] || { fail "expected $library"; finish; }
nm -D --defined-only "$library" | awk '$2 ~ /[A-Z]/ { print $3 }' | sort >"$work/exported"
grep -v '^lutra_' "$work/exported" >"$work/out" && fail 'expected only lutra_* to be exported'
cat include/lutra/*.h | tr '\n' ' ' | grep -o 'LUTRA_API [^;]*;' | grep -o 'lutra_[a-z0-9_]* *(' |
    tr -d '( ' | grep -v '_t$' | sort -u >"$work/declared"
[ "$(wc -l <"$work/declared")" -gt 50 ] || fail 'expected to find the declarations'
while read -r name; do
    grep -qx "$name" "$work/exported" || fail "expected $name to be exported"
done <"$work/declared"
finish
