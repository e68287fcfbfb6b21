// One panel's codes, scales and minimums, from the canonical arrays. Only pack.cpp calls these.
#pragma once

#include "kernels/pack.h"

namespace slipstream {

void pack_codes(const SourceMatrix& source, PackedMatrix& packed, int64_t panel);
void pack_scales(const SourceMatrix& source, PackedMatrix& packed, int64_t panel);

// One binary16 number as float32, exactly.
float float_from_half(uint16_t half);

}  // namespace slipstream
