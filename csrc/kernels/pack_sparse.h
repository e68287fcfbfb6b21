// Sparse weights: whether a matrix has zeros enough in the right places, and its panels without
// them. pack.cpp and the builder call these.
#pragma once

#include "kernels/pack.h"

namespace slipstream {

// Symmetric integers of 4 or 8 bits: only there is a code zero, and kernels are made for these.
bool can_be_sparse(const SourceMatrix& source);

// Whether of each four consecutive inputs (0–3, 4–7 …) at most two are not zero, in outputs
// [outputs.begin, outputs.end) of a matrix that can_be_sparse. Ends at the first that breaks it.
bool two_of_four(const SourceMatrix& source, Range outputs);

// The codes of an output from input k on, zero for zero, whatever the format; past the inputs zero.
void read_codes(const SourceMatrix& source, int64_t output, int64_t k, int64_t count, int8_t* out);

// One panel's codes. std::invalid_argument if more than two of four are not zero.
void pack_sparse(const SourceMatrix& source, PackedMatrix& packed, int64_t panel);

}  // namespace slipstream
