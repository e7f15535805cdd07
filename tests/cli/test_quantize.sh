#!/bin/sh
# quantize writes a folder that inspect and eval read; refuses what it should; honours its options.
. tests/cli/lib.sh
needs python3

run quantize "$MODEL" "$work/plan" --dry-run
expect_status 0
expect_out '^would write '
[ -z "$(find "$work" -name 'plan*')" ] || fail 'expected a dry run to write nothing'

run quantize "$MODEL" "$work/model" --format nf4 --group-size 64 --json
expect_status 0
expect_json
expect_value 'o["format"], o["quantized_tensors"]' "('nf4:g64:f16', 56)"
expect_value '4.25 <= o["bits_per_weight"] < 4.27' True
expect_value '18 < o["sqnr_db"] < 25' True
expect_value 'o["bytes_out"] < o["bytes_in"] / 2' True
expect_value 'o["seconds"] > 0 and o["peak_memory"] > 0' True
[ ! -e "$work/model.partial" ] || fail 'expected no .partial folder to be left'
for f in config.json tokenizer.json tokenizer_config.json generation_config.json; do
    [ -f "$work/model/$f" ] || fail "expected $f in the new folder"
done

run inspect "$work/model"
expect_status 0
expect_out '^quantization  *nf4:g64:f16, 56 modules'
run inspect "$work/model" --json
expect_value 'o["parameters"], o["quantized_modules"]' '(8392960, 56)'
expect_value '4.25 <= o["quantized_bits_per_weight"] < 4.27' True

# An existing folder is not touched without --overwrite.
cp "$work/model/config.json" "$work/config.before"
run quantize "$MODEL" "$work/model" --format nf3
expect_status 1
expect_err '--overwrite'
expect_no_out
cmp -s "$work/model/config.json" "$work/config.before" || fail 'expected the existing folder to be left alone'
run quantize "$MODEL" "$work/model" --format nf3 --overwrite -q
expect_status 0
expect_no_err
expect_out '^format  *nf3:g64:f16$'

# Every format name, and the options that change a spec.
for format in nf4 nf3 nf2 lm4 lm3 lm2 fp4 fp3 fp2 int2 int3 int4 int5 int6 int7 int8; do
    run quantize "$MODEL" "$work/any" --format $format --dry-run --json
    expect_status 0
    expect_value 'o["format"]' "$format:g64:f16"
done
run quantize "$MODEL" "$work/made" -n --json --format int3:g128:asym --scale-dtype bf16
expect_value 'o["format"]' 'int3:g128:asym:bf16'
run quantize "$MODEL" "$work/made" -n --json --format int3:g128:asym --symmetric --group-size channel
expect_value 'o["format"]' 'int3:channel:f16'
run quantize "$MODEL" "$work/made" -n --json --format int4 --asymmetric --group-size 32 --scale-dtype fp32
expect_value 'o["format"]' 'int4:g32:asym:f32'

# --ignore replaces the default list.
run quantize "$MODEL" "$work/ignored" --format int8 --ignore '*embed_tokens' --ignore 'lm_head' --ignore '*.layers.0.*' --json
expect_status 0
expect_value 'o["quantized_tensors"]' 49

# The range rule changes scales and codes, not the format.
run quantize "$MODEL" "$work/narrow" --format int2 --range mse --json
expect_status 0
expect_value 'o["format"], o["range"]' "('int2:g64:f16', 'mse')"
expect_value 'o["sqnr_db"] > 6' True
run inspect "$work/narrow"
expect_status 0
usage_error "--range: unknown value 'max', expected minmax or mse" quantize "$MODEL" "$work/made" --range max

# Tables of one's own.
printf '# four levels\n-1.5, -0.5 # low\n0.25\n1\n' >"$work/levels.txt"
run quantize "$MODEL" "$work/table" --table "$work/levels.txt" --json
expect_status 0
expect_value 'o["format"].startswith("table") and o["bits_per_weight"] < 2.3' True
printf '[-1, 0, 0.5, 1]' >"$work/levels.json"
run quantize "$MODEL" "$work/made" --table "$work/levels.json" -n
expect_status 0
printf '1 2 3\n' >"$work/three.txt"
usage_error 'table of 3 values, expected 4, 8' quantize "$MODEL" "$work/made" --table "$work/three.txt"
printf '1 2\n3 x4\n' >"$work/word.txt"
run quantize "$MODEL" "$work/made" --table "$work/word.txt"
expect_status 1
expect_err "word.txt:2: 'x4' is not a number"
printf '[1, 2, "3", 4]' >"$work/word.json"
run quantize "$MODEL" "$work/made" --table "$work/word.json"
expect_status 1
expect_err 'entry 2 is not a number'
run quantize "$MODEL" "$work/made" --table "$work/nowhere"
expect_status 1

run quantize "$work/nowhere" "$work/made"
expect_status 1
expect_err 'nowhere'
run quantize "$MODEL" /dev/null/out
expect_status 1
[ ! -e "$work/made" ] || fail 'expected no output folder from failed runs'
finish
