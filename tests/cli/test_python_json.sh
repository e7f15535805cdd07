#!/bin/sh
# test_python_json.sh - what Python's json module writes and JSON does not know: lutra reads it.
. tests/cli/lib.sh
needs python3

cp -r "$MODEL" "$work/model"
sed '1s/{/{"initial_range": Infinity, "model_max_length": 1000000000000000019884624838656, /' \
    "$MODEL/config.json" >"$work/model/config.json"

run inspect "$work/model"
expect_status 0
expect_out 'architecture  *LlamaForCausalLM'

run inspect "$work/model" --json
expect_status 0
expect_value "o['architecture']" LlamaForCausalLM
expect_value "o['config']['initial_range']" inf

finish
