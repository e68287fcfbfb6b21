// The vector interface: 16 lanes of float or int32, whatever the machine has underneath. Kernels
// are written against it once and compiled per instruction set; every operation below is one IEEE
// operation per lane (or exact integer work), so all sets give the same bits.
//
//   types      f32x16, i32x16, mask16
//   memory     load(p) store(p, v), and with a count n of lanes (0 … 16; the rest reads as zero and
//              is not written): load(p, n) store(p, v, n); load_bf16 load_f16 store_bf16 likewise
//              (bf16 is stored rounded to nearest even), load_i32, load_i8 load_u8 (16 bytes,
//              one a lane), store_i8 (v must fit)
//   make       set1(x) zero_f32() set1_i32(x) zero_i32()
//   float      + - * / fma(a, b, c) = a·b + c in one rounding, min max abs sqrt round_even
//              min(a, b) is a < b ? a : b and max(a, b) is a > b ? a : b, also for NaN (so b)
//   integer    + - & | max_i32, shift_left<n> shift_right<n> (arithmetic)
//   convert    to_f32(i32x16), to_i32(f32x16): to nearest even; INT_MIN for NaN or out of range
//              as_f32 as_i32: the same bits under the other type
//   compare    less(a, b) → mask16, less_i32, select(mask, a, b): a where set
//   reduce     sum(v) in the fixed tree (8+8, 4+4, 2+2, 1+1), max_of(v), max_of_i32(v), sum_i32(v)
#pragma once

#include <cstdint>

#include "isa/inline.h"

#if defined(SLIPSTREAM_ISA_I8MM)
#define SLIPSTREAM_ISA_NEON  // all of it, and the matrix product
#endif

#if defined(SLIPSTREAM_EMULATED)  // only in csrc/tests
#if defined(SLIPSTREAM_ISA_AMX)
#define SLIPSTREAM_ISA emulated_amx
#else
#define SLIPSTREAM_ISA emulated_avx512
#endif
#elif defined(SLIPSTREAM_ISA_AMX)
#define SLIPSTREAM_ISA amx
#elif defined(SLIPSTREAM_ISA_AVX512)
#define SLIPSTREAM_ISA avx512
#elif defined(SLIPSTREAM_ISA_AVX2)
#define SLIPSTREAM_ISA avx2
#elif defined(SLIPSTREAM_ISA_I8MM)
#define SLIPSTREAM_ISA i8mm
#elif defined(SLIPSTREAM_ISA_NEON)
#define SLIPSTREAM_ISA neon
#else
#define SLIPSTREAM_ISA portable
#endif

#if defined(SLIPSTREAM_ISA_AMX) || defined(SLIPSTREAM_ISA_AVX512)
#include "isa/vec_avx512.h"
#elif defined(SLIPSTREAM_ISA_AVX2)
#include "isa/vec_avx2.h"
#elif defined(SLIPSTREAM_ISA_NEON)
#include "isa/vec_neon.h"
#else
#include "isa/vec_portable.h"
#endif

namespace slipstream::SLIPSTREAM_ISA {

constexpr int kLanes = 16;

}  // namespace slipstream::SLIPSTREAM_ISA
