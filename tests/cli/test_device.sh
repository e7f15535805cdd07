#!/bin/sh
# --device: the CPU by name gives what the default gives; a GPU that is not there is an error with a
# mend, before anything is loaded; one that is there answers.
. tests/cli/lib.sh
needs python3

run run "$MODEL" -p 'The' -n 12 -q
cp "$work/out" "$work/default"
run run "$MODEL" -p 'The' -n 12 -q --device cpu
expect_status 0
cmp -s "$work/out" "$work/default" || fail 'expected --device cpu to be the default'

for name in gpu cuda: cuda:x cpu:1; do
    run run "$MODEL" -p 'The' -n 1 --device "$name"
    expect_status 1
    expect_err "device is '$name', expected cpu, cuda or cuda:N"
    expect_no_out
done
run eval "$MODEL" --text models/text/val.txt --device cuda --dtype fp32
expect_status 1
expect_err 'model dtype is F32, expected BF16 or F16 on the GPU'
run eval "$MODEL" --text models/text/val.txt --dtype fp16
expect_status 1
expect_err 'model dtype is F16, expected BF16 or F32 on the CPU'

run quantize "$MODEL" "$work/q" --device gpu
expect_status 1
expect_err "device is 'gpu', expected cpu, cuda or cuda:N"
run quantize "$MODEL" "$work/q" --device cpu --json
expect_status 0
expect_value 'o["device"]' cpu

run --version
if grep -q '^gpu: none: ' "$work/out"; then
    for command in "run $MODEL -p The" "eval $MODEL --text models/text/val.txt" "chat $MODEL" \
        "quantize $MODEL $work/q2"; do
        # shellcheck disable=SC2086 # words on purpose
        run $command --device cuda
        expect_status 1
        expect_err 'use the CPU (--device cpu)'
        expect_no_out
    done
else
    expect_out '^gpu: cuda:0 .*, compute capability [0-9]*\.[0-9], [0-9.]* GB, driver for CUDA [0-9.]*$'
    run run "$MODEL" -p 'The' -n 12 --device cuda --json
    expect_status 0
    expect_value 'len(o["tokens"])' 12
    run quantize "$MODEL" "$work/q2" --device cuda
    expect_status 0
    for shard in "$work"/q/*.safetensors; do
        cmp -s "$shard" "$work/q2/${shard##*/}" || fail "expected the same ${shard##*/} from the GPU"
    done
    run run "$MODEL" -p 'The' -n 12 --device cuda:999
    expect_status 1
    expect_err 'cuda:999 is not here'
fi
finish
