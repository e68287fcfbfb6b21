// The operations that compute each row by itself; see graph/ops.py for what they mean.
//
// Made by ProgramBuilder with values and weights that it has checked.
#pragma once

#include <memory>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/rotary.h"
#include "step/operation.h"

namespace slipstream {

// The angles' sines and cosines of one set of frequencies: a value of [2][pairs] floats a row.
struct RotaryTable {
  std::vector<double> frequencies;
  double factor;
  int value;
};

// Which node, over which rows.
struct Place {
  int node;
  Domain domain;
};

RowOperation embed(Place place, const PackedMatrix& matrix, float scale, int out,
                   const LinearKernels& linear, const ElementwiseKernels& elementwise);
RowOperation position_embed(Place place, const PackedMatrix& matrix, int offset, int x, int out,
                            const LinearKernels& linear, const ElementwiseKernels& elementwise);
RowOperation norm(Place place, const NormShape& shape, int x, int out, const NormKernels& kernels);
RowOperation add_norm(Place place, const NormShape& shape, int residual, int delta, int sum,
                      int out, const NormKernels& kernels);
RowOperation fill_rotary_table(Place place, std::shared_ptr<const RotaryTable> table);
RowOperation rotate(Place place, std::shared_ptr<const RotaryTable> table, const RotaryShape& shape,
                    int x, int out, const RotaryKernels& kernels);
RowOperation activate(Place place, Activation kind, int x, int out, const LinearKernels& kernels);
RowOperation gate(Place place, Activation kind, int gate, int up, int out,
                  const LinearKernels& kernels);
RowOperation add(Place place, int a, int b, int out, const ElementwiseKernels& kernels);
RowOperation scale(Place place, float factor, int x, int out, const ElementwiseKernels& kernels);
RowOperation soft_cap(Place place, float cap, int x, int out, const ElementwiseKernels& kernels);
// Copies the rows whose logits are wanted.
RowOperation select_rows(int node, int x, int out);

}  // namespace slipstream
