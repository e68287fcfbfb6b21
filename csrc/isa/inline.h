// What must be inlined even without optimization: headers are compiled once per instruction set,
// and an out-of-line copy made for a faster set could be the one that the linker keeps for all.
#pragma once

#define SLIPSTREAM_INLINE inline __attribute__((always_inline))
