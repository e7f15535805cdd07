#!/bin/sh
# inspect shows folders and single files, for people and for machines.
. tests/cli/lib.sh
needs python3

run inspect "$MODEL"
expect_status 0
expect_no_err
expect_out '^architecture  *LlamaForCausalLM$'
expect_out '^parameters  *8.39 M$'
expect_out '^quantization  *none$'

run inspect "$MODEL" --tensors
expect_status 0
expect_out '^model.embed_tokens.weight  *BF16  *\[8192, 256\]  *4.19 MB  model-00001-of-00002.safetensors$'
[ "$(grep -c safetensors "$work/out")" -eq 74 ] || fail 'expected a line for each of the 74 tensors'

run inspect "$MODEL" --tensors --json
expect_status 0
expect_json
expect_value 'o["parameters"]' 8392960
expect_value 'len(o["tensors"])' 74
expect_value 'sum(t["bytes"] for t in o["tensors"]) == o["bytes"]' True

run inspect "$MODEL/model-00001-of-00002.safetensors" --json
expect_status 0
expect_value 'o["files"], o["architecture"]' '(1, None)'

run inspect "$work/nowhere"
expect_status 1
expect_err "lutra: $work/nowhere: "
expect_no_out

printf 'not a safetensors file' >"$work/bad.safetensors"
run inspect "$work/bad.safetensors"
expect_status 1
expect_err 'bad.safetensors: '
finish
