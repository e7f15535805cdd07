#!/bin/sh
# Ctrl-C in a terminal: ends an answer of chat but not chat, leaves at the prompt when pressed twice,
# and ends run and quantize as the signal does; quantize resumes.
. tests/cli/lib.sh
needs python3
shown='tests/cli/terminal.py'
python3 tests/cli/terminal.py "$LUTRA" "$MODEL" >"$work/out" 2>"$work/err"
status=$?
expect_status 0
finish
