// Subnormal floats as zeros, as AMX's bfloat16 products take and give them, in the code between a
// SubnormalsAreZero and the end of its life. What is computed there is read from memory there, and
// goes through `settle` before the end: compilers do not know that the mode matters.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "isa/inline.h"

namespace slipstream {

class SubnormalsAreZero {
 public:
  SLIPSTREAM_INLINE SubnormalsAreZero() : before_(read()) { write(before_ | kZeroes); }
  SLIPSTREAM_INLINE ~SubnormalsAreZero() { write(before_); }
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;

  // `value` is computed by now.
  template <class Value>
  SLIPSTREAM_INLINE void settle(Value& value) const {
    __asm__ volatile("" : "+m"(value));
  }

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kZeroes = 0x8040;  // of MXCSR: results to zero, operands are zeros
  SLIPSTREAM_INLINE static uint64_t read() { return _mm_getcsr(); }
  SLIPSTREAM_INLINE static void set(uint64_t control) { _mm_setcsr(unsigned(control)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kZeroes = uint64_t(1) << 24;  // FZ of FPCR, both ways
  SLIPSTREAM_INLINE static uint64_t read() {
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  SLIPSTREAM_INLINE static void set(uint64_t control) {
    __asm__ volatile("msr fpcr, %0" : : "r"(control));
  }
#else  // subnormals stay
  static constexpr uint64_t kZeroes = 0;
  SLIPSTREAM_INLINE static uint64_t read() { return 0; }
  SLIPSTREAM_INLINE static void set(uint64_t) {}
#endif
  // Nothing is loaded before, or stored after, the mode changes.
  SLIPSTREAM_INLINE static void write(uint64_t control) {
    __asm__ volatile("" : : : "memory");
    set(control);
    __asm__ volatile("" : : : "memory");
  }

  uint64_t before_;
};

}  // namespace slipstream
