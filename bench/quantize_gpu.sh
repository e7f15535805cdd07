#!/bin/sh
# quantize_gpu.sh - rounding to nearest on a GPU: the encoder's checks, whole checkpoints byte for byte
# against the CPU's, times. Prints a line as soon as each is known and exits 1 if anything failed; about
# 25 s. Parts to run: PARTS="checks models bench" (all of these by default).
#   BIN=build/release WORK=/dev/shm/lutra-rtn sh bench/quantize_gpu.sh
# BIN: a build folder with the targets lutra, check_cuda_ops, test_gpu_quantize, bench_quantize and
# bench_make_checkpoint, or a folder with these programs.
# shellcheck disable=SC2317 # parts are called by name
set -u
BIN=${BIN:-build/release}
WORK=${WORK:-/tmp/lutra-rtn}
PARTS=${PARTS:-checks models bench}
DEVICE=${DEVICE:-cuda}
LAYERS=${LAYERS:-10} # of Llama-3.1-8B: 4.9 GB
failed=0
start=$(date +%s)
rm -rf "$WORK"
mkdir -p "$WORK"
trap 'rm -rf "$WORK"' EXIT

say() { echo "[$(($(date +%s) - start)) s] $*"; }
lost() {
    failed=1
    say "FAILED: $*"
}

# program FOLDER NAME: in the build folder, or beside the others
program() { if [ -x "$BIN/$2" ]; then echo "$BIN/$2"; else echo "$BIN/$1/$2"; fi; }
lutra=$(program app/cli lutra)

part_checks() {
    "$(program tools/checkkernel check_cuda_ops)" check encode || lost "check_cuda_ops"
    LUTRA_TEST_GPU=$DEVICE "$(program tests test_gpu_quantize)" >"$WORK/log" 2>&1 || lost "test_gpu_quantize"
    grep -E 'FAILED|ERROR|PASSED' "$WORK/log" | head -n 8
}

# same MODEL FORMAT RANGE: both devices write the same folder and report the same ratio
same() {
    on=first
    for device in cpu "$DEVICE"; do
        "$lutra" quantize -q "$1" "$WORK/$on" --format "$2" --range "$3" --device "$device" --json \
            >"$WORK/json" 2>"$WORK/log" || {
            lost "$device $2 $3: $(cat "$WORK/log")"
            return
        }
        sed -n 's/.*"sqnr_db": *\([0-9.e+-]*\).*/\1/p' "$WORK/json" >"$WORK/$on.sqnr"
        on=second
    done
    if diff -r "$WORK/first" "$WORK/second" >/dev/null && cmp -s "$WORK/first.sqnr" "$WORK/second.sqnr"; then
        say "same bytes: $2 $3, SQNR $(cat "$WORK/first.sqnr") dB"
    else
        lost "$2 $3: the bytes differ"
    fi
    rm -rf "$WORK/first" "$WORK/second"
}

part_models() {
    for case in 'nf4:g64 minmax' 'nf4:g64 mse' 'nf3:g128:bf16 mse' 'lm2:g64 mse' 'int4:g128:asym minmax' \
        'int3:g32:asym:f32 mse' 'int8:channel minmax' 'int5:channel:asym mse' 'fp4:g32 minmax' 'km3:g64 mse'; do
        same models/llama-8m "${case% *}" "${case#* }"
    done
}

part_bench() {
    bench=$(program bench bench_quantize)
    "$(program bench bench_make_checkpoint)" "$WORK/m" --shape llama-3.1-8b --layers "$LAYERS" --vocab 32000 \
        --shard-mb 2048 >"$WORK/log" 2>&1 || lost "bench_make_checkpoint: $(tail -n 1 "$WORK/log")"
    say "a checkpoint of $(du -sh "$WORK/m" | cut -f1)"
    "$bench" "$WORK/m" "$WORK/w" nf4:g64 2 --device "$DEVICE" --json || lost "bench minmax"
    "$bench" "$WORK/m" "$WORK/w" lm3:g64 1 --range mse --device "$DEVICE" --json | grep '"quantize"' || lost "bench mse"
    same "$WORK/m" int4:g128:asym minmax
}

"$lutra" --version
for part in $PARTS; do
    "part_$part"
done
say "done"
exit $failed
