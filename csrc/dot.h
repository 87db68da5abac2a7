// The product of codes as 8-bit integers: fields of activations against interleaved codes of
// weights.
#pragma once

#include "bits.h"
#include "product.h"

namespace bipft {
namespace {

template <class Isa>
class DotProduct {
 public:
  // Bytes from one row of activations to the next, rows that must be there for `count` of them
  // (tiles are whole), and entries of a row of results, at least.
  static constexpr std::int64_t row_bytes(std::int64_t in) { return round_up(in, 64); }
  static constexpr std::int64_t padded_count(std::int64_t count) {
    return round_up(count, Isa::dot_rows);
  }
  static constexpr std::int64_t padded(std::int64_t out) {
    return round_up(out, Isa::dot.layout.rows);
  }

  // sum_k fields[t][k] * weights[n][k] to result[t * stride + n]. What pads a row of weights is
  // zero, so what pads a row of activations does not count.
  static void run(const Weights& w, const std::uint8_t* fields, std::int64_t count,
                  std::int32_t* result, std::int64_t stride) {
    [[maybe_unused]] const typename Isa::DotSession session;
    const std::int64_t blocks = blocks_of(Isa::dot.layout, w.out);
    std::int64_t b = 0;
    for (; b + Isa::dot_vectors <= blocks; b += Isa::dot_vectors)
      columns<Isa::dot_vectors>(w, b, fields, count, result, stride);
    for (; b < blocks; ++b) columns<1>(w, b, fields, count, result, stride);
  }

 private:
  static constexpr std::int64_t kRows = Isa::dot_rows;

  // V blocks of weights against all rows: the blocks stay in cache.
  template <int V>
  static void columns(const Weights& w, std::int64_t block, const std::uint8_t* fields,
                      std::int64_t count, std::int32_t* result, std::int64_t stride) {
    std::int64_t t = 0;
    for (; t + kRows / 2 < count; t += kRows) tile<kRows, V>(w, block, fields, t, result, stride);
    if (t + 1 < count)
      tile<kRows / 2, V>(w, block, fields, t, result, stride);
    else if (t < count)
      tile<1, V>(w, block, fields, t, result, stride);
  }

  template <int T, int V>
  static void tile(const Weights& w, std::int64_t block, const std::uint8_t* fields,
                   std::int64_t t, std::int32_t* result, std::int64_t stride) {
    constexpr std::int64_t rows = Isa::dot.layout.rows, word = Isa::dot.layout.word;
    const std::int64_t words = dot_words(Isa::dot, w.in), bytes = row_bytes(w.in);
    Isa::template dot_tile<T, V>(w.data + block * words * rows * word, words, fields + t * bytes,
                                 bytes, result + t * stride + block * rows, stride);
  }
};

}  // namespace
}  // namespace bipft
