// Every table of linear kernels that this machine can run: the supported sets, and AVX-512 and AMX
// over emulated instructions where the build has them.
#pragma once

#include <string>
#include <vector>

#include "kernels/linear.h"

#if defined(SLIPSTREAM_TEST_EMULATED)
namespace slipstream::emulated_avx512 {
extern const LinearKernels linear_table;
}
namespace slipstream::emulated_amx {
extern const LinearKernels linear_table;
}
#endif

namespace slipstream::test {

struct Candidate {
  std::string name;
  const LinearKernels* kernels;
};

inline std::vector<Candidate> candidates() {
  std::vector<Candidate> out;
  for (const Isa isa : isas_supported())
    out.push_back({std::string(isa_name(isa)), &linear_kernels(isa)});
#if defined(SLIPSTREAM_TEST_EMULATED)
  if (isa_supported(Isa::avx2)) {  // the halves of emulated registers are AVX2
    out.push_back({"emulated avx512", &emulated_avx512::linear_table});
    out.push_back({"emulated amx", &emulated_amx::linear_table});
  }
#endif
  return out;
}

}  // namespace slipstream::test
