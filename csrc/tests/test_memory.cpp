// Pieces of an arena are zeroed, aligned, apart from each other, and outlive the arena.

#include "isa/memory.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "tests/check.h"

using slipstream::Arena;
using slipstream::kCacheLine;

struct Taken {
  Arena::Piece piece;
  std::size_t size;
  int mark;
};

static bool all(const std::byte* data, std::size_t size, int value) {
  return std::all_of(data, data + size, [&](std::byte b) { return b == std::byte(value); });
}

static std::vector<Taken> take_many(Arena& arena) {
  std::mt19937 random(1);
  std::vector<Taken> pieces;
  for (int i = 0; i < 60; ++i) {
    // Odd sizes, some of several megabytes, and two beyond a chunk.
    std::size_t size = 1 + random() % (i % 7 == 0 ? 5'000'000 : 200'000);
    if (i == 20 || i == 40) size = 40'000'000;
    pieces.push_back({arena.take(size), size, 1 + i});
    CHECK(all(pieces.back().piece.data, size, 0), "piece %d is not zeroed", i);
    std::memset(pieces.back().piece.data, 1 + i, size);
  }
  return pieces;
}

int main() {
  std::vector<Taken> pieces;
  {
    Arena arena;
    pieces = take_many(arena);
  }
  for (const Taken& taken : pieces) {
    CHECK(reinterpret_cast<std::uintptr_t>(taken.piece.data) % kCacheLine == 0, "not aligned");
    CHECK(all(taken.piece.data, taken.size, taken.mark), "piece %d was written over", taken.mark);
  }
  // Letting some go leaves the others as they are.
  for (std::size_t i = 0; i < pieces.size(); i += 2) pieces[i].piece = {};
  for (std::size_t i = 1; i < pieces.size(); i += 2) {
    CHECK(all(pieces[i].piece.data, pieces[i].size, pieces[i].mark), "piece %zu has gone", i);
  }
  return slipstream::test::report("memory");
}
