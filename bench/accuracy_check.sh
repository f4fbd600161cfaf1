#!/bin/sh
# Build and run accuracy_check.c for one instruction set, with the flags of the wheel's kernels.
#   bench/accuracy_check.sh baseline|avx2|avx512|neon 32|64 [stride or count] [name] [value|backward]
# Environment: CC, OMP_NUM_THREADS, and FASTACT_CSRC: another csrc folder, such as a deliberately broken
# one; CHECK_QUICK=1: float32 against the double libm, for stride 1.  Exit status 1: a promise is broken.
set -eu
usage() { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
isa=$1 bits=$2
shift 2
case $isa in
avx2) flags="-mavx2 -mfma" ;;
avx512) flags="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512" ;;
baseline | neon) flags="" ;;
*) usage ;;
esac
case $bits in 32 | 64) ;; *) usage ;; esac
quadmath=""
[ "$bits" = 64 ] && [ "$(uname -m)" = x86_64 ] && quadmath=-lquadmath
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# The oracle takes a parameter and the kernel a dy that some functions ignore: no warning for that.
# shellcheck disable=SC2086
${CC:-gcc} -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-thread-jumps -Wall -Wextra \
    -Wno-unused-parameter $flags -DCHECK_BITS="$bits" ${CHECK_QUICK:+-DCHECK_QUICK} -fopenmp \
    -I"${FASTACT_CSRC:-$here/../csrc}" "$here/accuracy_check.c" -o "$out/check" $quadmath -lm
OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} "$out/check" "$@"
