#!/bin/sh
# Build and run accuracy_check.c for one instruction set, with the flags of the wheel.
#   bench/accuracy_check.sh baseline|avx2|avx512|neon 32|64 [stride or count] [name] [value|backward]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
isa=$1 bits=$2
shift 2
case $isa in
avx2) flags="-mavx2 -mfma" ;;
avx512) flags="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512" ;;
baseline | neon) flags="" ;;
*) echo "unknown instruction set: $isa" >&2; exit 2 ;;
esac
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# shellcheck disable=SC2086
${CC:-gcc} -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra \
    -Wno-unused-parameter $flags -DCHECK_BITS="$bits" -I"${FASTACT_CSRC:-$here/../csrc}" -fopenmp \
    "$here/accuracy_check.c" -o "$out/check" -lquadmath -lm
OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} "$out/check" "$@"
