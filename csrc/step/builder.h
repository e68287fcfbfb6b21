// Builds a Program node by node, in the order of the graph; every call checks what it is given.
//
// Weights are added first and named by the number that comes back; they are packed at once, by the
// whole team. Values are numbered likewise. Errors are std::invalid_argument.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/pack_masked.h"
#include "step/linear_operation.h"
#include "step/program.h"
#include "step/row_operations.h"

namespace slipstream {

struct NormSpec {
  bool layer;
  int heads;
  float epsilon;
  int weights;  // a vector
  int biases;   // a vector, or -1
};

// bits 32: the input stays float; 16: bfloat16, of matrices that are; 8: rounded, one scale per
// `group` inputs (0: per row), or one `scale` that is fixed for all rows (0: none is).
struct ActivationSpec {
  int bits;
  std::int64_t group;
  float scale = 0.0f;
};

struct RotarySpec {
  int heads;
  int head_dim;
  std::vector<double> frequencies;
  double factor;
};

struct AttentionSpec {
  int heads;
  int kv_heads;
  int head_dim;
  float scale;
  int window;      // 0: none
  float soft_cap;  // 0: none
};

struct MatrixUse {
  int matrix;
  int bias;  // a vector, or -1
};

class ProgramBuilder {
 public:
  ProgramBuilder(int threads, Isa isa, KVType kv_type);

  int add_matrix(const SourceMatrix& source);
  // Whether the matrix could be added with Sparsity::two_of_four.
  bool is_two_of_four(const SourceMatrix& source);
  // What its codes would need with Sparsity::masked; some panel_bytes above `most` where one panel
  // needs more than that, and then the rest was not read. std::invalid_argument where it cannot be.
  MaskedSize masked_size(const SourceMatrix& source, std::int64_t most);
  // Nanoseconds of `rows` rows times each of these matrices of one shape, on the team.
  std::int64_t time_matrices(const std::vector<int>& matrices, int rows);
  // A matrix that was packed before.
  int add_packed(PackedMatrix matrix);
  // What `add_matrix` made, for whoever wants to keep it.
  std::shared_ptr<const PackedMatrix> packed(int matrix) const;
  int add_vector(const float* values, std::int64_t count);

  // The operations that follow belong to graph node `node`.
  void begin_node(int node);

  int embed(int matrix, float scale);
  int position_embed(int x, int matrix, int offset);
  int norm(int x, const NormSpec& spec);
  std::pair<int, int> add_norm(int residual, int delta, const NormSpec& spec);
  std::vector<int> linear(int x, const std::vector<MatrixUse>& uses, const ActivationSpec& spec);
  int gated_linear(int x, int gate, int up, Activation kind, const ActivationSpec& spec);
  int rotary(int x, const RotarySpec& spec);
  int attention(int queries, int keys, int values, const AttentionSpec& spec);
  int activate(int x, Activation kind);
  int gate(int gate, int up, Activation kind);
  int add(int a, int b);
  int scale(int x, float factor);
  int soft_cap(int x, float cap);
  int select(int x);

  // The builder is used up. `vocabulary` bounds the token ids.
  std::unique_ptr<Program> finish(int output, int vocabulary);

 private:
  void require_open() const;
  MatrixFormat format_of(const SourceMatrix& source);
  const Value& value(int id) const;
  const PackedMatrix& matrix(int id) const;
  const float* vector(int id, std::int64_t width) const;
  Domain same_shape(int a, int b) const;
  NormShape norm_shape(int x, const NormSpec& spec) const;
  int new_value(Domain domain, std::int64_t width, std::size_t element_bytes = 4);
  Place place(Domain domain) const { return {node_, domain}; }

  LinearSource source(int x, const std::vector<const PackedMatrix*>& matrices,
                      const ActivationSpec& spec);
  void group_input(LinearSource& source, const std::vector<const PackedMatrix*>& matrices,
                   const ActivationSpec& spec);
  void add_rounding(LinearSource& source);
  LinearSites sites(int x, Domain domain, const std::vector<const PackedMatrix*>& matrices);
  std::shared_ptr<AttentionPlan> attention_plan(const AttentionHeads& heads);
  int attention_kind(int window);
  std::shared_ptr<const RotaryTable> rotary_table(const RotarySpec& spec);

  void push(RowOperation operation);
  void push(std::unique_ptr<TeamOperation> operation);
  void mark(const Operation& operation);
  void place_output(int output);

  ProgramParts parts_;
  const AdapterKernels& adapter_;
  const AttentionKernels& attention_;
  const ElementwiseKernels& elementwise_;
  const LinearKernels& linear_;
  const NormKernels& norm_;
  const RotaryKernels& rotary_;
  Arena arena_;  // of packed matrices
  int node_ = -1;
  int embedded_ = std::numeric_limits<int>::max();  // rows of the smallest embedding
  std::vector<std::int64_t> vector_widths_;
  // What several operations share: rounded inputs by (value, bits, group, sum group,
  // fixed scale), tables, plans.
  std::map<std::tuple<int, int, std::int64_t, std::int64_t, float>, int> rounded_;
  std::map<std::pair<std::vector<double>, double>, std::shared_ptr<const RotaryTable>> tables_;
};

}  // namespace slipstream
