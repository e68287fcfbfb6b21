// Memory that kernels like: aligned to a cache line, and in huge pages when it is large, so that
// streaming weights does not wait for the page tables. Zeroed; one owner; moves, never copies.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "isa/inline.h"

namespace slipstream {

constexpr std::size_t kCacheLine = 64;

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // std::bad_alloc when the machine has no room.
  explicit AlignedBuffer(std::size_t size_bytes);
  ~AlignedBuffer();

  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  SLIPSTREAM_INLINE std::byte* data() { return data_; }
  SLIPSTREAM_INLINE const std::byte* data() const { return data_; }
  SLIPSTREAM_INLINE std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Pieces of memory that are filled once and read often, such as weights: side by side, so that
// small ones share large pages too. What was taken stays alive as long as its owner.
class Arena {
 public:
  struct Piece {
    std::byte* data;
    std::shared_ptr<AlignedBuffer> owner;
  };
  // Zeroed, on a cache line; std::bad_alloc when the machine has no room.
  Piece take(std::size_t size_bytes);

 private:
  std::shared_ptr<AlignedBuffer> chunk_;
  std::size_t used_ = 0;
};

// One thread's working memory: grows to the largest request, keeps nothing between requests.
class Scratch {
 public:
  // At least `size_bytes`, aligned to a cache line, valid until the next call; contents undefined.
  std::byte* reserve(std::size_t size_bytes);
  std::size_t size() const { return buffer_.size(); }

 private:
  AlignedBuffer buffer_;
};

// Lets each of a team's be as large as the largest: which thread meets the largest piece of work is
// chance, and without this another would allocate in some later step. Between steps only.
void level(std::vector<Scratch>& of_threads);

}  // namespace slipstream
