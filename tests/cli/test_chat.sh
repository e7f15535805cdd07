#!/bin/sh
# chat through a pipe: one answer a line, the history counts, commands work, a full context is told.
. tests/cli/lib.sh
needs python3

printf 'Hello there.\nAnd again?\n/save %s\n/exit\nnever read\n' "$work/saved.json" >"$work/in"
run chat "$MODEL" -n 12
expect_status 0
python3 - "$work/saved.json" "$work/out" <<'END' || fail 'expected the saved conversation to be what was said'
import json, sys
m = json.load(open(sys.argv[1]))
assert [x["role"] for x in m] == ["user", "assistant"] * 2, m
assert m[0]["content"] == "Hello there." and m[2]["content"] == "And again?"
assert open(sys.argv[2]).read() == m[1]["content"] + "\n" + m[3]["content"] + "\n"
END
cp "$work/out" "$work/two"

# The same turns give the same answers: what the cache kept changes nothing.
run chat "$MODEL" -n 12
cmp -s "$work/out" "$work/two" || fail 'expected the same conversation twice'

# After /reset the first question has its first answer again.
printf 'Hello there.\n/reset\nHello there.\n' >"$work/in"
run chat "$MODEL" -n 12 -q
expect_status 0
python3 - "$work/out" <<'END' || fail 'expected the same answer after /reset'
import sys
t = open(sys.argv[1]).read()
assert len(t) % 2 == 0 and t[:len(t) // 2] == t[len(t) // 2:], t
END

# A system prompt is the first message; lines may be continued; // sends a slash.
printf 'one \\\ntwo\n//not a command\n/save %s\n' "$work/saved.json" >"$work/in"
run chat "$MODEL" -n 4 -q --system 'Be brief.'
expect_status 0
python3 - "$work/saved.json" <<'END' || fail 'expected the system prompt and the joined lines'
import json, sys
m = json.load(open(sys.argv[1]))
assert m[0] == {"role": "system", "content": "Be brief."}
assert m[1]["content"] == "one \ntwo" and m[3]["content"] == "/not a command", m
END

printf '/help\n/resett\n/save\n/save /nowhere/x\n' >"$work/in"
run chat "$MODEL"
expect_status 0
expect_err '/reset  *forget'
expect_err 'unknown command /resett, near: /reset'
expect_err '/save: give a file name'
expect_err '/save: /nowhere/x'
expect_no_out

# A small context: old turns are left out with a note, a message that is too long is told.
for i in 1 2 3 4 5 6 7 8; do echo "Turn $i: tell me more about the river and the hills."; done >"$work/in"
head -c 6000 models/text/val.txt | tr '\n' ' ' >>"$work/in"
printf '\nStill there?\n' >>"$work/in"
run chat "$MODEL" -n 16 --context 128
expect_status 0
expect_err 'the context of 128 tokens is full: the oldest'
expect_err 'the message has .* tokens, the context holds 128: shorten it'

: >"$work/in"
run chat "$MODEL"
expect_status 0
expect_no_out

run chat "$work/nowhere"
expect_status 1
finish
