// Picks the tables of the kernels that the step executor and the border call, by instruction set.

#include "kernels/adapter.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/rotary.h"
#include "kernels/sample.h"
#include "kernels/spans.h"

namespace slipstream {

// These kernels use no tiles and no products of bytes, so `amx` takes the table of `avx512`, and
// `i8mm` that of `neon`; see CMakeLists.txt.
#if defined(SLIPSTREAM_X86)
#define PICK_VECTOR_TABLE(isa, name) \
  ((isa) == Isa::portable ? portable::name : (isa) == Isa::avx2 ? avx2::name : avx512::name)
#elif defined(SLIPSTREAM_ARM)
#define PICK_VECTOR_TABLE(isa, name) ((isa) == Isa::portable ? portable::name : neon::name)
#else
#define PICK_VECTOR_TABLE(isa, name) SLIPSTREAM_PICK_TABLE(isa, name)
#endif

SLIPSTREAM_DECLARE_TABLES(AdapterKernels, adapter_table)
SLIPSTREAM_DECLARE_TABLES(AttentionKernels, attention_table)
SLIPSTREAM_DECLARE_TABLES(ElementwiseKernels, elementwise_table)
SLIPSTREAM_DECLARE_TABLES(NormKernels, norm_table)
SLIPSTREAM_DECLARE_TABLES(RotaryKernels, rotary_table)
SLIPSTREAM_DECLARE_TABLES(SampleKernels, sample_table)
SLIPSTREAM_DECLARE_TABLES(SpanKernels, span_table)

const AdapterKernels& adapter_kernels(Isa isa) { return PICK_VECTOR_TABLE(isa, adapter_table); }
const AttentionKernels& attention_kernels(Isa isa) {
  return PICK_VECTOR_TABLE(isa, attention_table);
}
const ElementwiseKernels& elementwise_kernels(Isa isa) {
  return PICK_VECTOR_TABLE(isa, elementwise_table);
}
const NormKernels& norm_kernels(Isa isa) { return PICK_VECTOR_TABLE(isa, norm_table); }
const RotaryKernels& rotary_kernels(Isa isa) { return PICK_VECTOR_TABLE(isa, rotary_table); }
const SampleKernels& sample_kernels(Isa isa) { return PICK_VECTOR_TABLE(isa, sample_table); }
const SpanKernels& span_kernels(Isa isa) { return PICK_VECTOR_TABLE(isa, span_table); }

}  // namespace slipstream
