#!/bin/sh
# run continues a prompt: reproducibly, up to a limit or a stop string, and says why it stopped.
. tests/cli/lib.sh
needs python3

run run "$MODEL" -p 'The' -n 24 -q
expect_status 0
expect_no_err
cp "$work/out" "$work/greedy"
[ "$(wc -c <"$work/greedy")" -gt 20 ] || fail 'expected some text'
run run "$MODEL" -p 'The' -n 24 -q --threads 1
cmp -s "$work/out" "$work/greedy" || fail 'expected the same greedy text with one thread'
printf 'The' >"$work/in"
run run "$MODEL" -n 24
expect_err 'tokens/s'
cmp -s "$work/out" "$work/greedy" || fail 'expected the same text for a prompt from standard input'
printf 'The' >"$work/prompt"
rm "$work/in"
run run "$MODEL" -n 24 -f "$work/prompt"
cmp -s "$work/out" "$work/greedy" || fail 'expected the same text for a prompt from a file'
run run "$MODEL" -p 'The' -n 24 --echo
printf 'The' | cat - "$work/greedy" | cmp -s - "$work/out" || fail 'expected --echo to put the prompt before'

run run "$MODEL" -p 'The' -n 24 --json
expect_status 0
expect_json
expect_value 'o["new_tokens"], len(o["tokens"]), o["finish"]' "(24, 24, 'length')"
expect_value 'o["text"].rstrip("\n") == open("'"$work/greedy"'").read().rstrip("\n")' True

# The first token comes from the prompt's pass: alone it says nothing about speed.
run run "$MODEL" -p 'The' -n 1 --json
expect_value 'o["new_tokens"], o["tokens_per_second"]' '(1, 0.0)'

# Stop strings are left out, and the earliest ends the answer.
word=$(python3 -c 'import sys; print(open(sys.argv[1]).read().split()[4])' "$work/greedy")
run run "$MODEL" -p 'The' -n 24 --json --stop 'never-in-the-text' --stop "$word"
expect_value 'o["finish"]' stop
expect_value '"'"$word"'" not in o["text"]' True
expect_value 'open("'"$work/greedy"'").read().startswith(o["text"])' True

# Chance is reproducible by its seed.
run run "$MODEL" -p 'The' -n 24 --sample --seed 5 -q
cp "$work/out" "$work/five"
run run "$MODEL" -p 'The' -n 24 --sample --seed 5 -q --threads 1
cmp -s "$work/out" "$work/five" || fail 'expected the same text from the same seed'
run run "$MODEL" -p 'The' -n 24 --temperature 1.5 --top-k 50 --min-p 0.01 --repetition-penalty 1.1 --seed 6 -q
expect_status 0
cmp -s "$work/out" "$work/five" && fail 'expected another text from another seed'
run run "$MODEL" -p 'The' -n 24 --sample --temperature 0 -q
cmp -s "$work/out" "$work/greedy" || fail 'expected temperature 0 to be greedy'

# An empty prompt follows the begin token; without it there is nothing to follow.
run run "$MODEL" -p '' -n 4 --json
expect_status 0
expect_value 'o["prompt_tokens"]' 1
run run "$MODEL" -p '' -n 4 --raw
expect_status 1
expect_err 'the prompt is empty'
expect_no_out

# A prompt longer than the context is refused, not cut.
head -c 12000 models/text/val.txt >"$work/long"
run run "$MODEL" -f "$work/long" -n 4
expect_status 1
expect_err 'the context holds 1024: shorten it'
expect_no_out
run run "$MODEL" -p 'One two three four five six' --context 4 -n 4
expect_status 1
expect_err 'the context holds 4'

# The answer ends where the context does.
run run "$MODEL" -p 'The' -n 0 --ignore-eos --context 32 --json
expect_status 0
expect_value 'o["finish"]' length
expect_value '30 <= o["prompt_tokens"] + o["new_tokens"] <= 33' True

# Bytes that are no UTF-8 do no harm.
printf 'caf\351 \377' >"$work/in"
run run "$MODEL" -n 4 --json
expect_status 0
expect_json
rm "$work/in"
run run "$work/nowhere" -p a
expect_status 1
expect_err 'nowhere'
finish
