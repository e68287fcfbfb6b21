// The instruction sets a kernel can be compiled for, and the choice among them at run time.
// A kernel source is compiled once per set (see kernels/isa.cmake) into a namespace of that name;
// whoever wants a kernel asks a function table for an `Isa`. All sets give the same bits.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace slipstream {

// On x86-64 the first four, on 64-bit ARM `portable`, `neon` (with the dot product) and `i8mm`
// (with the matrix product too).
enum class Isa { portable, avx2, avx512, amx, neon, i8mm };

// "portable", "avx2", "avx512", "amx", "neon", "i8mm".
std::string_view isa_name(Isa isa);
std::optional<Isa> isa_from_name(std::string_view name);

// Whether the processor, the operating system and this build can run `isa`. Asking for `amx` also
// asks the kernel for permission to use the tiles, so ask before threads start.
bool isa_supported(Isa isa);

// Whether vpexpandb is there (AVX-512 VBMI2): always with `amx`, on some processors with `avx512`.
bool expands_bytes();

// Every supported set, slowest first; never empty, since `portable` always runs.
std::vector<Isa> isas_supported();

// The fastest supported set.
Isa detect();

}  // namespace slipstream

// The function tables of one kernel, one per set, and the function that picks among them:
//
//   SLIPSTREAM_DECLARE_TABLES(LinearKernels, linear_table)   // in namespace slipstream, in a .cpp
//   const LinearKernels& linear_kernels(Isa isa) { return SLIPSTREAM_PICK_TABLE(isa, linear_table);
//   }
//
// and in the source compiled per set:
//
//   namespace slipstream::SLIPSTREAM_ISA { extern const LinearKernels linear_table = {...}; }
#if defined(SLIPSTREAM_X86)
#define SLIPSTREAM_DECLARE_TABLES(Type, name) \
  namespace portable {                        \
  extern const Type name;                     \
  }                                           \
  namespace avx2 {                            \
  extern const Type name;                     \
  }                                           \
  namespace avx512 {                          \
  extern const Type name;                     \
  }                                           \
  namespace amx {                             \
  extern const Type name;                     \
  }
#define SLIPSTREAM_PICK_TABLE(isa, name)               \
  ((isa) == ::slipstream::Isa::amx      ? amx::name    \
   : (isa) == ::slipstream::Isa::avx512 ? avx512::name \
   : (isa) == ::slipstream::Isa::avx2   ? avx2::name   \
                                        : portable::name)
#elif defined(SLIPSTREAM_ARM)
#define SLIPSTREAM_DECLARE_TABLES(Type, name) \
  namespace portable {                        \
  extern const Type name;                     \
  }                                           \
  namespace neon {                            \
  extern const Type name;                     \
  }                                           \
  namespace i8mm {                            \
  extern const Type name;                     \
  }
#define SLIPSTREAM_PICK_TABLE(isa, name)           \
  ((isa) == ::slipstream::Isa::i8mm   ? i8mm::name \
   : (isa) == ::slipstream::Isa::neon ? neon::name \
                                      : portable::name)
#else
#define SLIPSTREAM_DECLARE_TABLES(Type, name) \
  namespace portable {                        \
  extern const Type name;                     \
  }
#define SLIPSTREAM_PICK_TABLE(isa, name) ((void)(isa), portable::name)
#endif
