// Weights with zeros in no pattern: how much the others need, and their panels by bit mask.
// pack.cpp and the builder call these.
#pragma once

#include "kernels/pack.h"

namespace slipstream {

// What the codes of a matrix need by mask: those that are not zero, and the bytes of the fullest
// panel, masks included.
struct MaskedSize {
  int64_t kept = 0;
  int64_t panel_bytes = 0;
};

// Of panels [panels.begin, panels.end) of a matrix that can_be_sparse (pack_sparse.h). Ends after
// the first panel that needs more than `most` bytes.
MaskedSize masked_size(const SourceMatrix& source, Range panels, int64_t most);

// MatrixFormat::code_bytes for a panel of so many bytes, and for the whole matrix, on this thread.
int64_t masked_code_bytes(int64_t panel_bytes);
int64_t masked_code_bytes(const SourceMatrix& source);

// One panel's codes. std::invalid_argument if they do not fit.
void pack_masked(const SourceMatrix& source, PackedMatrix& packed, int64_t panel);

}  // namespace slipstream
