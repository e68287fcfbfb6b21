// How hard to inline and unroll. Headers are compiled once per instruction set, and an out-of-line
// copy made for a faster set could be the one that the linker keeps for all: so what they share
// must vanish even without optimization. Portable code is safe either way, and its sixteen plain
// lanes, all unrolled, would take g++ minutes. SLIPSTREAM_CHECKED is for builds that are tested and
// never timed, where unrolled kernels would cost more to compile than all else: what their headers
// share then only counts in integers, so that any set's copy will do.
#pragma once

#if defined(SLIPSTREAM_ISA_PORTABLE) || defined(SLIPSTREAM_CHECKED)
#define SLIPSTREAM_INLINE inline
#define SLIPSTREAM_UNROLL(n)
#else
#define SLIPSTREAM_PRAGMA(text) _Pragma(#text)
#define SLIPSTREAM_INLINE inline __attribute__((always_inline))
#define SLIPSTREAM_UNROLL(n) SLIPSTREAM_PRAGMA(GCC unroll n)
#endif
