#include "step/row_operations.h"

#include <algorithm>
#include <cmath>

namespace slipstream {
namespace {

// A row operation that does `each(step, row)` for every row.
template <class Each>
RowOperation row_by_row(Place place, std::vector<int> reads, std::vector<int> writes, Each each) {
  RowOperation operation;
  operation.node = place.node;
  operation.domain = place.domain;
  operation.reads = std::move(reads);
  operation.writes = std::move(writes);
  operation.work = [each](const Step& step, int row_begin, int row_end) {
    for (int row = row_begin; row < row_end; ++row) each(step, row);
  };
  return operation;
}

int width_of(const Step& step, int value) { return step.values[value].width; }

}  // namespace

RowOperation embed(Place place, const PackedMatrix& matrix, float scale, int out,
                   const LinearKernels& linear, const ElementwiseKernels& elementwise) {
  return row_by_row(place, {}, {out},
                    [=, &matrix, &linear, &elementwise](const Step& step, int row) {
                      float* y = rows_of(step, out)[row];
                      linear.embed_row(matrix, step.batch.ids[row], y);
                      if (scale != 1.0f) elementwise.scale(scale, y, y, width_of(step, out));
                    });
}

RowOperation position_embed(Place place, const PackedMatrix& matrix, int offset, int x, int out,
                            const LinearKernels& linear, const ElementwiseKernels& elementwise) {
  return row_by_row(place, {x}, {out},
                    [=, &matrix, &linear, &elementwise](const Step& step, int row) {
                      float* y = rows_of(step, out)[row];
                      linear.embed_row(matrix, step.places.position[row] + offset, y);
                      elementwise.add(rows_of(step, x)[row], y, y, width_of(step, out));
                    });
}

RowOperation norm(Place place, const NormShape& shape, int x, int out, const NormKernels& kernels) {
  return row_by_row(place, {x}, {out}, [=, &kernels](const Step& step, int row) {
    kernels.norm(shape, rows_of(step, x)[row], rows_of(step, out)[row]);
  });
}

RowOperation add_norm(Place place, const NormShape& shape, int residual, int delta, int sum,
                      int out, const NormKernels& kernels) {
  return row_by_row(place, {residual, delta}, {sum, out}, [=, &kernels](const Step& step, int row) {
    kernels.add_norm(shape, rows_of(step, residual)[row], rows_of(step, delta)[row],
                     rows_of(step, sum)[row], rows_of(step, out)[row]);
  });
}

// In double and with the library's sine, so that neither the instruction set nor a long context
// shows in the result.
RowOperation fill_rotary_table(Place place, std::shared_ptr<const RotaryTable> table) {
  return row_by_row(place, {}, {table->value}, [table](const Step& step, int row) {
    const std::size_t pairs = table->frequencies.size();
    float* cosines = rows_of(step, table->value)[row];
    float* sines = cosines + pairs;
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = step.places.position[row] * table->frequencies[i];
      cosines[i] = static_cast<float>(std::cos(angle) * table->factor);
      sines[i] = static_cast<float>(std::sin(angle) * table->factor);
    }
  });
}

RowOperation rotate(Place place, std::shared_ptr<const RotaryTable> table, const RotaryShape& shape,
                    int x, int out, const RotaryKernels& kernels) {
  const int value = table->value;
  return row_by_row(place, {x, value}, {out}, [=, &kernels](const Step& step, int row) {
    const float* cosines = rows_of(step, value)[row];
    kernels.rotate(shape, cosines, cosines + shape.pairs, rows_of(step, x)[row],
                   rows_of(step, out)[row]);
  });
}

RowOperation activate(Place place, Activation kind, int x, int out, const LinearKernels& kernels) {
  return row_by_row(place, {x}, {out}, [=, &kernels](const Step& step, int row) {
    kernels.activate(kind, rows_of(step, x)[row], rows_of(step, out)[row], width_of(step, x));
  });
}

RowOperation gate(Place place, Activation kind, int gate, int up, int out,
                  const LinearKernels& kernels) {
  return row_by_row(place, {gate, up}, {out}, [=, &kernels](const Step& step, int row) {
    kernels.gate(kind, rows_of(step, gate)[row], rows_of(step, up)[row], rows_of(step, out)[row],
                 width_of(step, out));
  });
}

RowOperation add(Place place, int a, int b, int out, const ElementwiseKernels& kernels) {
  return row_by_row(place, {a, b}, {out}, [=, &kernels](const Step& step, int row) {
    kernels.add(rows_of(step, a)[row], rows_of(step, b)[row], rows_of(step, out)[row],
                width_of(step, out));
  });
}

RowOperation scale(Place place, float factor, int x, int out, const ElementwiseKernels& kernels) {
  return row_by_row(place, {x}, {out}, [=, &kernels](const Step& step, int row) {
    kernels.scale(factor, rows_of(step, x)[row], rows_of(step, out)[row], width_of(step, out));
  });
}

RowOperation soft_cap(Place place, float cap, int x, int out, const ElementwiseKernels& kernels) {
  return row_by_row(place, {x}, {out}, [=, &kernels](const Step& step, int row) {
    kernels.soft_cap(cap, rows_of(step, x)[row], rows_of(step, out)[row], width_of(step, out));
  });
}

RowOperation select_rows(int node, int x, int out) {
  auto select = [=](const Step& step, int row) {
    const float* from = rows_of(step, x)[step.batch.logit_rows[row]];
    std::copy(from, from + width_of(step, x), rows_of(step, out)[row]);
  };
  RowOperation operation = row_by_row({node, Domain::selected}, {x}, {out}, select);
  operation.crosses_rows = true;
  return operation;
}

}  // namespace slipstream
