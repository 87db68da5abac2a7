// The binary product: packed rows of activations against interleaved weights.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "bits.h"

namespace bipft {
namespace {

// Interleaved weights of one linear layer.
struct Weights {
  const std::uint8_t* data;
  std::int64_t in, out;
};

// Of working memory that is written before it is read: nothing is set to zero.
template <class T>
struct Unset : std::allocator<T> {
  template <class U>
  struct rebind {
    using other = Unset<U>;
  };
  template <class U>
  void construct(U* p) {
    ::new (static_cast<void*>(p)) U;
  }
};

// Working memory: at least `size` entries, whatever they are.
template <class T, class Allocator>
inline void grow(std::vector<T, Allocator>& memory, std::int64_t size) {
  if (static_cast<std::int64_t>(memory.size()) < size) memory.resize(size);
}

// Tokens of one item of work: as many as share a pass over the weights, fewer where a thread would
// have none; whole tiles of registers.
inline std::int64_t tokens_of_item(std::int64_t most, std::int64_t tile, std::int64_t tokens,
                                   int threads) {
  return round_up(std::clamp<std::int64_t>(ceil_div(tokens, threads), 1, most), tile);
}

// popcount(a XOR w) of `count` rows of activations, row_bytes(in) apart, against every row of
// weights, to result[t * stride + n]. acc = in - 2 * popcount.
template <class Isa>
class Product {
 public:
  // Entries of `result` for one row of activations, at least: whole vectors are written, and
  // eights read.
  static constexpr std::int64_t padded(std::int64_t out) {
    return padded_rows(Isa::layout, out);
  }

  void operator()(const Weights& w, const std::uint8_t* activations, std::int64_t count,
                  std::uint16_t* result, std::int64_t stride) {
    const std::int64_t bytes = row_bytes(w.in);
    grow(prepared_, Isa::prepared_bytes(w.in) * Isa::tokens);
    std::int64_t t = 0;
    for (; t + Isa::tokens <= count; t += Isa::tokens)
      rows<Isa::tokens>(w, activations + t * bytes, result + t * stride, stride);
    for (; t < count; ++t) rows<1>(w, activations + t * bytes, result + t * stride, stride);
  }

 private:
  template <int T>
  void rows(const Weights& w, const std::uint8_t* activations, std::uint16_t* result,
            std::int64_t stride) {
    const std::int64_t size = Isa::prepared_bytes(w.in);
    const std::uint8_t* pointers[T];
    for (int t = 0; t < T; ++t) {
      Isa::prepare(activations + t * row_bytes(w.in), w.in, prepared_.data() + t * size);
      pointers[t] = prepared_.data() + t * size;
    }
    const std::int64_t words = words_of(Isa::layout, w.in), blocks = blocks_of(Isa::layout, w.out);
    const std::int64_t block = words * Isa::layout.rows * Isa::layout.word;
    std::int64_t b = 0;
    for (; b + Isa::vectors <= blocks; b += Isa::vectors)
      Isa::template tile<T, Isa::vectors>(w.data + b * block, words, pointers,
                                          result + b * Isa::layout.rows, stride);
    for (; b < blocks; ++b)
      Isa::template tile<T, 1>(w.data + b * block, words, pointers, result + b * Isa::layout.rows,
                               stride);
  }

  std::vector<std::uint8_t> prepared_;
};

}  // namespace
}  // namespace bipft
