#include "kernels/linear.h"

#include <stdexcept>

namespace slipstream {

SLIPSTREAM_DECLARE_TABLES(LinearKernels, linear_table)

const LinearKernels& linear_kernels(Isa isa) { return SLIPSTREAM_PICK_TABLE(isa, linear_table); }

namespace {

int64_t rounded_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

// Group 0 stands for the whole row, and so does one that is larger.
int64_t resolved(int64_t group, int64_t inputs) {
  return group == 0 || group > inputs ? inputs : group;
}

void check_group(int64_t group, int64_t inputs) {
  if (group < 1 || (group != inputs && group % 16 != 0))
    throw std::invalid_argument("activation groups must be multiples of 16, or the whole row");
}

}  // namespace

std::size_t ActivationBlock::size_bytes(int64_t rows, int64_t inputs, int64_t group,
                                        int64_t sum_group) {
  check_group(resolved(group, inputs), inputs);
  check_group(resolved(sum_group, inputs), inputs);
  const int64_t groups = (inputs - 1) / resolved(group, inputs) + 1;
  const int64_t sum_groups = (inputs - 1) / resolved(sum_group, inputs) + 1;
  return std::size_t(rounded_up(rows * rounded_up(inputs, kInputPadding), int64_t(kCacheLine)) +
                     rounded_up(rows * groups * 4, int64_t(kCacheLine)) +
                     rounded_up(rows * sum_groups * 4, int64_t(kCacheLine)));
}

ActivationBlock ActivationBlock::place(std::byte* memory, int64_t rows, int64_t inputs,
                                       int64_t group, int64_t sum_group) {
  check_group(resolved(group, inputs), inputs);
  check_group(resolved(sum_group, inputs), inputs);
  ActivationBlock block;
  block.rows = rows;
  block.inputs = inputs;
  block.inputs_padded = rounded_up(inputs, kInputPadding);
  block.group = resolved(group, inputs);
  block.groups = (inputs - 1) / block.group + 1;
  block.sum_group = resolved(sum_group, inputs);
  block.sum_groups = (inputs - 1) / block.sum_group + 1;
  block.codes = reinterpret_cast<int8_t*>(memory);
  memory += rounded_up(rows * block.inputs_padded, int64_t(kCacheLine));
  block.scales = reinterpret_cast<float*>(memory);
  memory += rounded_up(rows * block.groups * 4, int64_t(kCacheLine));
  block.sums = reinterpret_cast<int32_t*>(memory);
  return block;
}

int64_t merge_group(const PackedMatrix& matrix, int64_t activation_group) {
  if (matrix.format().dense())
    throw std::invalid_argument("a dense matrix takes float32 activations, not int8");
  const int64_t inputs = matrix.inputs();
  const int64_t weights = matrix.format().group;
  const int64_t activations = resolved(activation_group, inputs);
  check_group(activations, inputs);
  const bool weights_divide = activations == inputs || activations % weights == 0;
  const bool activations_divide = weights == inputs || weights % activations == 0;
  if (weights < activations ? !weights_divide : !activations_divide)
    throw std::invalid_argument(
        "neither the weight's group nor the activation's divides the other");
  return weights < activations ? weights : activations;
}

void dequantize(const PackedMatrix& matrix, float* out) {
  for (int64_t output = 0; output < matrix.outputs(); ++output)
    linear_kernels(Isa::portable).embed_row(matrix, output, out + output * matrix.inputs());
}

}  // namespace slipstream
