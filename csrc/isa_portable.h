// Any processor: 64-bit words, one popcount each.
#pragma once

#include "bits.h"

namespace bipft {
namespace {

struct Portable : PlainRows {
  static constexpr const char* name = "portable";
  static constexpr Layout layout{4, 8};
  static constexpr int tokens = 4;   // register tile: tokens ...
  static constexpr int vectors = 1;  // ... by vectors of rows

  // The product's arithmetic on one register, and how many multiply-accumulates that is.
  using Vector = std::uint64_t;
  static constexpr std::int64_t macs = 64;
  static Vector filled(int x) { return static_cast<Vector>(x); }
  static Vector step(Vector sum, Vector a, Vector w) { return sum + popcount64(w ^ a); }

  // popcount(a XOR w) of T prepared rows against V blocks of rows, to out[t * stride + row].
  template <int T, int V>
  static void tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* const* rows,
                   std::uint16_t* out, std::int64_t stride) {
    Vector sums[T][V * 4] = {};
    for (std::int64_t j = 0; j < words; ++j)
      for (int v = 0; v < V; ++v)
        for (int r = 0; r < 4; ++r) {
          const std::uint64_t w = load64(weights + ((v * words + j) * 4 + r) * 8);
          for (int t = 0; t < T; ++t)
            sums[t][v * 4 + r] = step(sums[t][v * 4 + r], load64(rows[t] + j * 8), w);
        }
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < V * 4; ++r) out[t * stride + r] = static_cast<std::uint16_t>(sums[t][r]);
  }

  // Measured (benchmarks/binary_product.py --pairs): as long as 2.6 planes.
  static constexpr Dot dot{{1, 1}, 1, 8, 0, 4, 3};
  static constexpr int dot_rows = 4;     // register tile: rows of activations ...
  static constexpr int dot_vectors = 1;  // ... by vectors of weights

  using DotSession = NoSession;

  // sum_k fields[t][k] * weights[n][k] of T rows, `bytes` apart, against V blocks of weights, to
  // out[t * stride + n].
  template <int T, int V>
  static void dot_tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* fields,
                       std::int64_t bytes, std::int32_t* out, std::int64_t stride) {
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) {
        const std::uint8_t *a = fields + t * bytes, *w = weights + v * words;
        std::int32_t sum = 0;
        for (std::int64_t j = 0; j < words; ++j)
          sum += static_cast<std::int16_t>(a[j]) *
                 static_cast<std::int16_t>(static_cast<std::int8_t>(w[j]));
        out[t * stride + v] = sum;
      }
  }

  // Bit i: x[i] >= threshold[i], for 8 numbers.
  static std::uint8_t at_least(const float* x, const float* threshold) {
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i) bits |= unsigned{x[i] >= threshold[i]} << i;
    return static_cast<std::uint8_t>(bits);
  }

  // Bit i: x[i] - low[i] <= range[i] in 16-bit modular arithmetic, flipped where `flip` is all ones.
  static std::uint8_t inside(const std::uint16_t* x, const std::uint16_t* low,
                             const std::uint16_t* range, const std::uint16_t* flip) {
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i) {
      const bool in = static_cast<std::uint16_t>(x[i] - low[i]) <= range[i];
      bits |= unsigned{in != (flip[i] != 0)} << i;
    }
    return static_cast<std::uint8_t>(bits);
  }

  // The same for one interval.
  static std::uint8_t inside(const std::uint16_t* x, std::uint16_t low, std::uint16_t range) {
    unsigned bits = 0;
    for (int i = 0; i < 8; ++i)
      bits |= unsigned{static_cast<std::uint16_t>(x[i] - low) <= range} << i;
    return static_cast<std::uint8_t>(bits);
  }
};

}  // namespace
}  // namespace bipft
