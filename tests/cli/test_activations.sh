#!/bin/sh
# Checkpoints that say how inputs are rounded: quantize writes it, eval and run obey, options win.
. tests/cli/lib.sh
needs python3
text=models/text/val.txt
[ -e $text ] || text=README.md
small="--calib $text --samples 16 --seq-len 128"
probe="--text $text --window 64 --max-windows 4 --dtype fp32 --json"

# measure MODEL OPTION...: the loss of a model, to $nll
measure() {
    # shellcheck disable=SC2086
    run eval "$@" $probe
    expect_status 0
    nll=$(json 'o["nll"]')
}

# A scale per token is a word in config.json, without data.
run quantize "$MODEL" "$work/token" --format int8:channel --act-quant int8 --json
expect_status 0
expect_value 'o["activations"]' int8
run inspect "$work/token"
expect_out 'activations int8:token'
run quantize "$MODEL" "$work/plain" --format int8:channel
measure "$work/plain"
plain=$nll
measure "$work/token"
token=$nll
[ "$plain" != "$token" ] || fail 'expected the checkpoint to round its inputs'
measure "$work/plain" --act-quant int8:token
[ "$token" = "$nll" ] || fail 'expected the loss of --act-quant'
measure "$work/token" --act-quant none
[ "$plain" = "$nll" ] || fail 'expected --act-quant none to win'

# Fixed scales are stored; without a method weights are rounded to nearest.
# shellcheck disable=SC2086
run quantize "$MODEL" "$work/fixed" --format int8:channel --act-quant int8:tensor:asym $small
expect_status 0
expect_out 'activations      int8:tensor:asym'
run inspect "$work/fixed" --tensors
expect_out 'model.layers.0.mlp.up_proj.input_scale'
expect_out 'model.layers.7.self_attn.q_proj.input_zero'
measure "$work/fixed"
fixed=$nll
measure "$work/fixed" --act-quant int8:tensor:asym
[ "$fixed" = "$nll" ] || fail 'expected the stored scales'
measure "$work/fixed" --act-quant none
[ "$plain" = "$nll" ] || fail 'expected the same weights'
python3 -c "import sys; sys.exit(not 0 < abs($fixed - $plain) < 0.1)" || fail "expected $fixed to be near $plain"
run run "$work/fixed" -p 'The' --max-tokens 4
expect_status 0
run eval "$work/fixed" --text $text --act-quant int8:tensor
expect_status 1
expect_err 'input_scale belongs to the activation format int8:tensor:asym'

# The recipe's word counts unless the option says otherwise.
cat >"$work/r.yaml" <<'YAML'
format: int8:channel
activations: int8:tensor
activation_range: mse
passes:
  - method: smoothquant
  - {method: rtn, modules: "*.mlp.*", activations: "int8:token"}
  - method: rtn
YAML
# shellcheck disable=SC2086
run quantize "$MODEL" "$work/recipe" --recipe "$work/r.yaml" $small
expect_status 0
run inspect "$work/recipe"
expect_out 'activations int8:tensor, 32 modules'
expect_out 'activations int8:token, 24 modules'
run quantize "$MODEL" "$work/none" --recipe "$work/r.yaml" --act-quant none --calib "$text" --dry-run
expect_status 0

run quantize "$MODEL" "$work/x" --act-quant int8:tokn
expect_status 1
expect_err "unknown part 'tokn', near: token"
run quantize "$MODEL" "$work/x" --act-quant int8:tensor
expect_status 1
expect_err 'calibration data'
sed 's/activation_range: mse/activation_range: mean/' "$work/r.yaml" >"$work/bad.yaml"
usage_error "bad.yaml:3: unknown range rule 'mean'" quantize "$MODEL" "$work/x" --recipe "$work/bad.yaml"
finish
