#include "step/attention_operation.h"

#include <algorithm>

namespace slipstream {

AttentionOperation::AttentionOperation(int node, int queries, int out, AttentionOptions options,
                                       int threads)
    : options_(std::move(options)),
      queries_(queries),
      out_(out),
      state_size_(state_size(options_.shape.head_dim)),
      scratch_(threads) {
  this->node = node;
  reads = {queries};
  writes = {out};
}

void AttentionOperation::prepare(const Step&) {
  tasks_.reset();
  rows_.reset();
  level(scratch_);
  if (options_.plan->by_split()) split_states_ = options_.plan->reserve_states(state_size_);
}

void AttentionOperation::run(const Step& step, int thread) {
  const AttentionPlan& plan = *options_.plan;
  const int count = static_cast<int>(plan.tasks().size());
  for (int i = tasks_.take(); i < count; i = tasks_.take()) {
    if (plan.by_split()) {
      attend_split(step, plan.tasks()[i], scratch_[thread]);
    } else {
      attend_whole(step, plan.tasks()[i], scratch_[thread]);
    }
  }
  if (!plan.by_split()) return;
  step.team.barrier();
  for (int row = rows_.take(); row < step.batch.rows; row = rows_.take()) merge_row(step, row);
}

HeadPages AttentionOperation::pages_of(const Step& step, const AttentionTask& task) const {
  const AttentionShape& shape = options_.shape;
  HeadPages pages;
  pages.keys =
      step.kv.keys(options_.layer, 0) + head_bytes(shape.type.keys, shape.head_dim) * task.kv_head;
  pages.values = step.kv.values(options_.layer, 0) +
                 head_bytes(shape.type.values, shape.head_dim) * task.kv_head;
  pages.page_bytes = step.kv.page_bytes(options_.layer);
  pages.pages = step.batch.pages_of(task.sequence, options_.kind);
  return pages;
}

// The queries of a task are numbered row by row, and head by head within a row; this is the block
// of those from `start` on. `prepared` are the task's queries as prepare_queries left them, or
// null. The caller sets where the states are.
QueryBlock AttentionOperation::block_of(const Step& step, const AttentionTask& task, int start,
                                        const float* prepared) const {
  QueryBlock block;
  const int group = options_.plan->heads().group;
  block.count = std::min(kQueryBlock, (task.row_end - task.row_begin) * group - start);
  for (int i = 0; i < block.count; ++i) {
    const int row = task.row_begin + (start + i) / group;
    const int head = task.kv_head * group + (start + i) % group;
    const int position = step.places.position[row];
    block.rows[i] = row;
    block.heads[i] = head;
    block.queries[i] =
        prepared ? prepared + std::ptrdiff_t{start + i} * prepared_size(options_.shape.head_dim)
                 : rows_of(step, queries_)[row] + std::ptrdiff_t{head} * options_.shape.head_dim;
    block.first[i] = options_.plan->first_seen(position);
    block.last[i] = position + 1;
  }
  return block;
}

// All queries of a task as the pages want them, or null where they are wanted as they are.
const float* AttentionOperation::prepare_queries(const Step& step, const AttentionTask& task,
                                                 float* room) const {
  if (!needs_preparing(options_.shape.type)) return nullptr;
  const int total = (task.row_end - task.row_begin) * options_.plan->heads().group;
  const std::ptrdiff_t size = prepared_size(options_.shape.head_dim);
  for (int start = 0; start < total; start += kQueryBlock) {
    const QueryBlock block = block_of(step, task, start, nullptr);
    for (int i = 0; i < block.count; ++i) {
      options_.kernels->prepare(options_.shape, block.queries[i], room + (start + i) * size);
    }
  }
  return room;
}

// Floats that prepare_queries needs.
std::size_t AttentionOperation::prepared_floats(const AttentionTask& task) const {
  if (!needs_preparing(options_.shape.type)) return 0;
  const int total = (task.row_end - task.row_begin) * options_.plan->heads().group;
  return static_cast<std::size_t>(total) * prepared_size(options_.shape.head_dim);
}

// Split by split, so that the keys and values of one stay in the cache for all of the task's rows.
void AttentionOperation::attend_whole(const Step& step, const AttentionTask& task,
                                      Scratch& scratch) {
  const HeadPages pages = pages_of(step, task);
  const int total = (task.row_end - task.row_begin) * options_.plan->heads().group;
  const std::size_t floats = static_cast<std::size_t>(total + kQueryBlock) * state_size_;
  const std::size_t bytes = (floats + prepared_floats(task)) * sizeof(float);
  float* states = reinterpret_cast<float*>(scratch.reserve(bytes));
  float* next = states + std::ptrdiff_t{total} * state_size_;
  const float* prepared = prepare_queries(step, task, states + floats);
  for (int split = task.split_begin; split < task.split_end; ++split) {
    for (int start = 0; start < total; start += kQueryBlock) {
      QueryBlock block = block_of(step, task, start, prepared);
      join_split(pages, block, split, states + std::ptrdiff_t{start} * state_size_, next);
    }
  }
  for (int start = 0; start < total; start += kQueryBlock) {
    const QueryBlock block = block_of(step, task, start, prepared);
    for (int i = 0; i < block.count; ++i) {
      float* out = rows_of(step, out_)[block.rows[i]];
      options_.kernels->finish(options_.shape, states + std::ptrdiff_t{start + i} * state_size_,
                               out + std::ptrdiff_t{block.heads[i]} * options_.shape.head_dim);
    }
  }
}

// The first split that a query sees is its state; later ones are gathered in `next` and merged.
void AttentionOperation::join_split(const HeadPages& pages, QueryBlock& block, int split,
                                    float* states, float* next) const {
  for (int i = 0; i < block.count; ++i) {
    const bool begins = split == block.first[i] / kSplit;
    block.states[i] = (begins ? states : next) + std::ptrdiff_t{i} * state_size_;
  }
  options_.kernels->attend(options_.shape, pages, block, split);
  for (int i = 0; i < block.count; ++i) {
    const bool joins = block.first[i] / kSplit < split && split <= (block.last[i] - 1) / kSplit;
    if (!joins) continue;
    const std::ptrdiff_t at = std::ptrdiff_t{i} * state_size_;
    options_.kernels->merge(options_.shape, states + at, next + at);
  }
}

void AttentionOperation::attend_split(const Step& step, const AttentionTask& task,
                                      Scratch& scratch) {
  const HeadPages pages = pages_of(step, task);
  const AttentionPlan& plan = *options_.plan;
  const int heads = plan.heads().kv_heads * plan.heads().group;
  const int total = (task.row_end - task.row_begin) * plan.heads().group;
  const std::size_t bytes = prepared_floats(task) * sizeof(float);
  const float* prepared =
      prepare_queries(step, task, reinterpret_cast<float*>(scratch.reserve(bytes)));
  for (int start = 0; start < total; start += kQueryBlock) {
    QueryBlock block = block_of(step, task, start, prepared);
    for (int i = 0; i < block.count; ++i) {
      // A row that sees nothing of this split is not written to: any place will do.
      const std::int64_t before = task.split_begin - block.first[i] / kSplit;
      const std::int64_t state = plan.state_start(block.rows[i]) + before * heads + block.heads[i];
      block.states[i] = split_states_ + state * state_size_;
    }
    options_.kernels->attend(options_.shape, pages, block, task.split_begin);
  }
}

void AttentionOperation::merge_row(const Step& step, int row) {
  const AttentionPlan& plan = *options_.plan;
  const int heads = plan.heads().kv_heads * plan.heads().group;
  const int head_dim = options_.shape.head_dim;
  const int splits = static_cast<int>((plan.state_start(row + 1) - plan.state_start(row)) / heads);
  float* out = rows_of(step, out_)[row];
  for (int head = 0; head < heads; ++head) {
    float* state = split_states_ + (plan.state_start(row) + head) * state_size_;
    for (int split = 1; split < splits; ++split) {
      options_.kernels->merge(options_.shape, state,
                              state + std::ptrdiff_t{split} * heads * state_size_);
    }
    options_.kernels->finish(options_.shape, state, out + std::ptrdiff_t{head} * head_dim);
  }
}

RowOperation write_kv(int node, int keys, int values, const AttentionOptions& options) {
  const AttentionShape shape = options.shape;
  const int layer = options.layer;
  const int kind = options.kind;
  const int heads = options.plan->heads().kv_heads;
  auto write = options.kernels->write;
  const std::size_t key_bytes = head_bytes(shape.type.keys, shape.head_dim);
  const std::size_t value_bytes = head_bytes(shape.type.values, shape.head_dim);
  const auto work = [=](const Step& step, int row_begin, int row_end) {
    for (int row = row_begin; row < row_end; ++row) {
      const int position = step.places.position[row];
      const std::int32_t* pages = step.batch.pages_of(step.places.sequence[row], kind);
      const int page = pages[position / kPageSize];
      const float* key = rows_of(step, keys)[row];
      const float* value = rows_of(step, values)[row];
      for (int head = 0; head < heads; ++head) {
        const std::ptrdiff_t at = std::ptrdiff_t{head} * shape.head_dim;
        write(shape, key + at, value + at, step.kv.keys(layer, page) + head * key_bytes,
              step.kv.values(layer, page) + head * value_bytes, position % kPageSize);
      }
    }
  };
  return {{node, {keys, values}, {}}, Domain::rows, work};
}

}  // namespace slipstream
