#!/bin/sh
# eval gives the reference perplexity of its first windows, whatever the threads.
. tests/cli/lib.sh
needs python3
text=models/text/val.txt

run eval "$MODEL" --text $text --window 64 --max-windows 4 --dtype fp32 --json --threads 1
expect_status 0
expect_json
expect_value 'o["windows"], o["predicted"], o["window"]' '(4, 252, 64)'
expect_value '10 < o["perplexity"] < 200' True
expect_value 'abs(__import__("math").log(o["perplexity"]) - o["nll"]) < 1e-6' True
expect_value 'o["tokens_per_second"] > 0' True
one=$(json 'o["nll"]')
run eval "$MODEL" --text $text --window 64 --max-windows 4 --dtype fp32 --json --threads 2
expect_value 'o["nll"]' "$one"

run eval "$MODEL" --text $text --window 128 --max-windows 2 --bos --json
expect_value 'o["predicted"], o["bos"]' '(256, True)'
run eval "$MODEL" --text $text --window 128 --stride 64 --max-windows 3 --json
expect_status 0
expect_value 'o["windows"], o["predicted"]' '(3, 255)'

# The text may come through a pipe; the plain form names the figures.
head -c 8000 $text >"$work/in"
run eval "$MODEL" --text - --window 64 --max-windows 2 -q
expect_status 0
expect_no_err
expect_out '^perplexity  *[0-9.]*$'
rm "$work/in"

# Integer inputs of linears: finer is closer to the figure above; static scales come from a text.
run eval "$MODEL" --text $text --window 64 --max-windows 4 --dtype fp32 --json --act-quant int8
expect_status 0
expect_value "o['act_quant'], abs(o['nll'] - $one) < 0.02" "('int8', True)"
run eval "$MODEL" --text $text --window 64 --max-windows 4 --dtype fp32 --json --act-quant int3
expect_value "o['nll'] > $one + 0.1" True
run eval "$MODEL" --text $text --window 64 --max-windows 4 --dtype fp32 --json \
    --act-quant int8:tensor:asym --act-calib $text --act-rule mse
expect_value "abs(o['nll'] - $one) < 0.05" True
run eval "$MODEL" --text $text --act-quant int8:tensor
expect_status 1
expect_err 'input_scale'
run eval "$MODEL" --text $text --act-quant int8:tokn
expect_status 1
expect_err 'near: token'
usage_error 'act-calib' eval "$MODEL" --text $text --act-calib $text

# Smaller KV caches: finer is closer.
for kv in int8 fp8 int4 kivi4 kivi2; do
    run eval "$MODEL" --text $text --window 64 --max-windows 4 --dtype fp32 --json --kv $kv
    expect_value "o['kv'], abs(o['nll'] - $one) < 0.05" "('$kv', True)"
done
usage_error "'int5', expected" eval "$MODEL" --text $text --kv int5

printf 'short' >"$work/short.txt"
run eval "$MODEL" --text "$work/short.txt"
expect_status 1
expect_no_out
expect_err 'lutra: '
run eval "$MODEL" --text "$work/nowhere.txt"
expect_status 1
expect_err 'nowhere.txt: cannot open'
run eval "$MODEL" --text $text --window 5000
expect_status 1
expect_err '1024'
run eval "$work/nowhere" --text $text
expect_status 1
expect_err 'nowhere'
finish
