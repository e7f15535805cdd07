#!/bin/sh
# calibrate_gpu.sh - calibrated compression on a GPU: quality against the CPU on the shipped model, time
# of a Llama-3.1-8B block by part, memory of a Llama-3.1-405B block. Prints a line as soon as each is
# known; parts to run: PARTS="tests quality 8b awq 405b" (all of these by default).
#   LUTRA=build/release/app/cli/lutra MAKE=build/release/bench/bench_make_checkpoint \
#   CALIB=text.txt WORK=/dev/shm/lutra sh bench/calibrate_gpu.sh
# CALIB: calibration text for the quality part; models/text/val.txt is what perplexity is taken on.
set -eu
LUTRA=${LUTRA:-build/release/app/cli/lutra}
MAKE=${MAKE:-build/release/bench/bench_make_checkpoint}
TESTS=${TESTS:-build/release/tests}
CALIB=${CALIB:-models/text/val.txt}
WORK=${WORK:-/tmp/lutra-calibrate}
PARTS=${PARTS:-tests quality 8b awq 405b}
DEVICE=${DEVICE:-cuda}
case $DEVICE in cpu) exact=fp32 ;; *) exact=fp16 ;; esac
start=$(date +%s)
rm -rf "$WORK"
mkdir -p "$WORK"
trap 'rm -rf "$WORK"' EXIT

say() { echo "[$(($(date +%s) - start)) s] $*"; }
number() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1" | head -n 1; }

# ids FILE VOCAB LINES: rows of 2048 token ids
ids() {
    awk -v v="$2" -v n="$3" 'BEGIN { srand(7); for (i = 0; i < n; i++) {
        for (j = 0; j < 2048; j++) printf "%d ", int(rand() * v); print "" } }' >"$1"
}

# report NAME JSON BLOCKS TOTAL: seconds a block by part, and what TOTAL blocks would take
report() {
    awk -v name="$1" -v walk="$(number "$2" walk)" -v stat="$(number "$2" statistics)" \
        -v factor="$(number "$2" factor)" -v method="$(number "$2" methods)" \
        -v write="$(number "$2" write)" -v scales="$(number "$2" scales)" \
        -v ranges="$(number "$2" ranges)" -v rounding="$(number "$2" rounding)" -v all="$(number "$2" seconds)" -v n="$3" -v total="$4" \
        -v host="$(number "$2" peak_memory)" -v gpu="$(number "$2" gpu_peak_memory)" \
        -v fore="$(number "$2" memory_forecast)" -v gfore="$(number "$2" gpu_memory_forecast)" 'BEGIN {
        block = (walk + stat + factor + method + write) / n
        printf "%s: a block %.2f s = walks %.2f, statistics %.2f, factors %.2f, methods %.2f, writing %.2f; ",
            name, block, walk / n, stat / n, factor / n, method / n, write / n
        printf "methods = scales %.2f, ranges %.2f, rounding %.2f, other %.2f; ", scales / n, ranges / n,
            rounding / n, (method - scales - ranges - rounding) / n
        printf "%d blocks would take %.0f s and %.1f s around them; peak host %.1f GB (forecast %.1f), GPU %.1f GB (%.1f)\n",
            total, block * total, all - block * n, host / 1e9, fore / 1e9, gpu / 1e9, gfore / 1e9 }'
}

part_tests() {
    for t in test_gpu_factor test_gpu_ranges test_gpu_calibrate; do
        if [ -x "$TESTS/$t" ]; then
            LUTRA_TEST_GPU=$DEVICE timeout 40 "$TESTS/$t" >"$WORK/$t" 2>&1 && r=passed || r=FAILED
            say "$t on $DEVICE: $r"
            grep -E 'FAILED|ERROR' "$WORK/$t" | head -n 8 || true
        fi
    done
}

part_quality() {
    for format in int4:g128 int3:g128:asym; do
        for device in cpu "$DEVICE"; do
            "$LUTRA" quantize -q models/llama-8m "$WORK/q" --method gptq --format $format --range mse \
                --calib "$CALIB" --samples 128 --seq-len 512 --device "$device" --json >"$WORK/q.json" || return 1
            "$LUTRA" eval -q "$WORK/q" --text models/text/val.txt --device "$DEVICE" --dtype $exact \
                --json >"$WORK/e.json" || return 1
            say "llama-8m gptq $format on $device: perplexity $(number "$WORK/e.json" perplexity)," \
                "$(number "$WORK/q.json" seconds) s"
            rm -rf "$WORK/q"
        done
    done
}

make_8b() {
    [ -d "$WORK/8b" ] && return
    "$MAKE" "$WORK/8b" --shape llama-3.1-8b --layers 2 --vocab 32000 --tied 1 2>/dev/null
    ids "$WORK/8b.ids" 32000 128
    say "two blocks of Llama-3.1-8B are there"
}

# run_8b NAME ARGS
run_8b() {
    name=$1
    shift
    make_8b
    "$LUTRA" quantize -q "$WORK/8b" "$WORK/out" --calib "$WORK/8b.ids" --samples 128 --seq-len 2048 \
        --format int4:g128 --calib-memory 16 --device "$DEVICE" --json "$@" >"$WORK/r.json" ||
        return 1
    report "8B $name" "$WORK/r.json" 2 32
    rm -rf "$WORK/out"
}

part_8b() { run_8b "gptq int4:g128, 128 x 2048 tokens" --method gptq; }
part_awq() { run_8b "awq int4:g128, 128 x 2048 tokens" --method awq; }

part_405b() {
    "$MAKE" "$WORK/405b" --shape llama-3.1-405b --layers 1 --vocab 32000 --tied 1 2>/dev/null
    ids "$WORK/405b.ids" 32000 8
    say "a block of Llama-3.1-405B is there"
    printf 'passes: [{method: gptq, modules: ["*.down_proj"]}]\n' >"$WORK/down.yaml"
    "$LUTRA" quantize -q "$WORK/405b" "$WORK/out" --recipe "$WORK/down.yaml" --format int4:g128 \
        --calib "$WORK/405b.ids" --samples 8 --seq-len 2048 --calib-memory 16 --device "$DEVICE" \
        --json >"$WORK/r.json" || return 1
    report "405B gptq int4:g128 of down_proj, 8 x 2048 tokens" "$WORK/r.json" 1 126
    rm -rf "$WORK/out" "$WORK/405b"
}

for part in $PARTS; do
    part_"$part" || say "part $part failed"
done
say "done"
