#!/bin/sh
# docs/algorithms.md against the tables that drive the program: every method has a section, and its rows
# are the parameters with their defaults, values and help. And every shipped recipe is one.
. tests/cli/lib.sh
needs python3

run quantize --list-methods --json
expect_status 0
expect_json
"$LUTRA" quantize --list-methods --json | python3 -c '
import json, re, sys
page = open("docs/algorithms.md", encoding="utf-8").read()
sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
wrong = 0
for method in json.load(sys.stdin):
    name = method["name"]
    if name not in sections:
        wrong += 1
        print(f"docs/algorithms.md: no section for {name}")
        continue
    want = ["| `{name}` | {default} | {values} | {help} |".format(
        **dict(p, values=p["values"].replace("|", ", "))) for p in method["parameters"]]
    have = [l for l in sections[name].splitlines() if l.startswith("| `")]
    for row in want:
        if row not in have:
            wrong += 1
            print(f"docs/algorithms.md: {name}: expected the row\n{row}")
    for row in have:
        if row not in want:
            wrong += 1
            print(f"docs/algorithms.md: {name}: the program does not know\n{row}")
sys.exit(wrong > 0)
' >"$work/wrong" || fail "$(cat "$work/wrong")"

for recipe in recipes/*.yaml; do
    run quantize "$MODEL" "$work/x" --recipe "$recipe" --dry-run
    expect_status 0
    head -n 1 "$recipe" | grep -q '^# ' || fail "$recipe: expected a comment saying when to use it"
done
finish
