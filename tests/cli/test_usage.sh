#!/bin/sh
# Bad usage is refused with exit status 2, a message on standard error, and near names.
. tests/cli/lib.sh

usage_error 'no command given'
usage_error "unknown command 'evel', near: eval" evel
usage_error "unknown command 'xyzzy'" xyzzy
usage_error "unknown command 'rum', near: run" help rum
usage_error "unknown option '--thread', near: --threads" --thread 2 eval
usage_error "unknown option '--windw', near: --window" eval "$MODEL" --windw 3
usage_error "unknown option '-Z'" run "$MODEL" -Z
usage_error 'MODEL is missing' run
usage_error 'OUT is missing' quantize "$MODEL"
usage_error 'one argument too many' inspect a b
usage_error '--text is missing' eval "$MODEL"
usage_error "'abc' is not a whole number" eval "$MODEL" --text x --window abc
usage_error 'out of range, expected 2 to' eval "$MODEL" --text x --window 1
usage_error 'out of range' eval "$MODEL" --text x --window 99999999999999999999
usage_error "'1.x' is not a number" run "$MODEL" -p a --temperature 1.x
usage_error 'out of range, expected 0 to 1' run "$MODEL" -p a --top-p 1.5
usage_error 'is not a number' run "$MODEL" -p a --temperature nan
usage_error '--window: needs a value' eval "$MODEL" --window
usage_error '--text: needs a value' eval "$MODEL" --text --json
usage_error '-p: needs a value' run "$MODEL" -p
usage_error '--json: takes no value' eval "$MODEL" --json=1
usage_error 'expected 32, 64, 128, 256 or channel' quantize "$MODEL" out --group-size 33
usage_error 'expected fp16, bf16 or fp32' quantize "$MODEL" out --scale-dtype f16
usage_error 'exclude each other' quantize "$MODEL" out --symmetric --asymmetric
usage_error "unknown codebook 'nf44', near: nf4" quantize "$MODEL" out --format nf44
usage_error 'zero point' quantize "$MODEL" out --format nf4 --asymmetric
usage_error 'takes no --format' quantize "$MODEL" out --format nf4 --table x
usage_error 'exclude each other' run "$MODEL" -p a -f b
usage_error '--top-k: has no effect' run "$MODEL" -p a --top-k 5
usage_error "unknown value 'sse', expected" eval "$MODEL" --text x --cpu sse
usage_error 'expected bash, zsh or fish' completion tcsh

# Options may stand before and after the command's name, joined or apart.
run --threads 1 inspect "$MODEL"
expect_status 0
run inspect --threads=1 -q -- "$MODEL"
expect_status 0
run inspect -t1 "$MODEL"
expect_status 0

run --version
expect_status 0
expect_out '^lutra [0-9]*\.[0-9]*\.[0-9]*$'
expect_out '^compiler: '
expect_out '^cpu levels here: ref'
expect_out '^gpu: '
finish
