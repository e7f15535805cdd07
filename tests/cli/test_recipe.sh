#!/bin/sh
# quantize with methods and recipes: lists them, runs them, says what is wrong with them.
. tests/cli/lib.sh
needs python3

run quantize --list-methods
expect_status 0
expect_out '^gptq - '
expect_out 'damp=0.01'
run quantize --list-methods --json
expect_status 0
expect_json
expect_value '[m["kind"] for m in o if m["name"] in ("gptq", "rtn")]' "['round', 'round']"

python3 - "$work" <<'PY'
import random, sys
random.seed(1)
with open(sys.argv[1] + "/data.ids", "w") as f:
    for _ in range(20):
        f.write(" ".join(str(random.randrange(8000)) for _ in range(32)) + "\n")
PY
data="$work/data.ids"
small="--calib $data --samples 16 --seq-len 32"

# shellcheck disable=SC2086 # $small is several options
run quantize "$MODEL" "$work/gptq" --method gptq --set damp=0.02 --format int4:g64 $small --json
expect_status 0
expect_json
expect_value 'o["quantized_tensors"], len(o["modules"])' '(56, 56)'
expect_value 'all(0 < m["output_error"] < 1 and m["sqnr_db"] > 5 for m in o["modules"])' True
expect_value 'o["modules"][0]["module"].startswith("model.layers.0.")' True
run inspect "$work/gptq" --json
expect_value 'o["quantized_modules"]' 56

# The recipe's format counts unless an option names one.
cat >"$work/r.yaml" <<'YAML'
format: nf4:g64
passes:
  - method: gptq
    modules: "*.mlp.*"
    layers: 0-1
YAML
# shellcheck disable=SC2086
run quantize "$MODEL" "$work/part" --recipe "$work/r.yaml" $small
expect_status 0
expect_out '^model.layers.1.mlp.up_proj '
expect_out 'nf4:g64'
expect_out '6 of them quantized'

usage_error "did you mean gptq" quantize "$MODEL" "$work/x" --method gtpq
usage_error "unknown parameter 'dmap', did you mean damp" quantize "$MODEL" "$work/x" --method gptq --set dmap=1
usage_error 'exclude each other' quantize "$MODEL" "$work/x" --method gptq --recipe "$work/r.yaml"
usage_error 'needs --method' quantize "$MODEL" "$work/x" --set damp=1
sed 's/layers/layer/' "$work/r.yaml" >"$work/bad.yaml"
usage_error "bad.yaml:5: unknown key 'layer', did you mean layers" quantize "$MODEL" "$work/x" --recipe "$work/bad.yaml"
run quantize "$MODEL" "$work/x" --method gptq
expect_status 1
expect_err 'needs calibration data'
[ ! -e "$work/x.partial" ] || fail 'expected nothing to be left behind'
run quantize "$MODEL" "$work/x" --method gptq --calib "$work/none.txt"
expect_status 1
expect_err 'none.txt'
finish
