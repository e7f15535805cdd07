#!/bin/sh
# Every public header compiles alone, as C17 and as C++17.
. tests/cli/lib.sh
cc=${CC:-cc}
for header in include/lutra/*.h; do
    name=lutra/$(basename "$header")
    shown="$cc $name"
    : >"$work/out"
    echo "#include <$name>" >"$work/one.c"
    "$cc" -std=c17 -Wall -Wextra -Werror -pedantic -fsyntax-only -Iinclude "$work/one.c" 2>"$work/err" ||
        fail "expected $name to compile alone as C17"
    cp "$work/one.c" "$work/one.cc"
    "$cc" -x c++ -std=c++17 -Wall -Wextra -Werror -pedantic -fsyntax-only -Iinclude "$work/one.cc" 2>"$work/err" ||
        fail "expected $name to compile alone as C++17"
done
finish
