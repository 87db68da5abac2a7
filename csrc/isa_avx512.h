// AVX-512 with VPOPCNTDQ: 8 rows of 64 bits a vector, XOR, popcount and add.
#pragma once

#include "bits.h"
#include "isa_avx2.h"

namespace bipft {
namespace {

struct Avx512 : PlainRows, protected Avx2 {
  static constexpr const char* name = "avx512";
  static constexpr Layout layout{8, 8};
  static constexpr int tokens = 4;
  static constexpr int vectors = 4;

  using PlainRows::prepare;
  using PlainRows::prepared_bytes;
  using Avx2::at_least;
  using Avx2::inside;
  using Avx2::DotSession;

  using Vector = __m512i;
  static constexpr std::int64_t macs = 512;
  static Vector filled(int x) { return _mm512_set1_epi64(x); }
  static Vector step(Vector sum, Vector a, Vector w) {
    return _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(a, w)));
  }

  template <int T, int V>
  static void tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* const* rows,
                   std::uint16_t* out, std::int64_t stride) {
    Vector sums[T][V];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) sums[t][v] = filled(0);
    for (std::int64_t j = 0; j < words; ++j) {
      Vector w[V];
      for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_si512(weights + (v * words + j) * 64);
      for (int t = 0; t < T; ++t) {
        const Vector a =
            _mm512_set1_epi64(static_cast<std::int64_t>(load64(rows[t] + j * 8)));
        for (int v = 0; v < V; ++v)
          sums[t][v] = step(sums[t][v], a, w[v]);
      }
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + t * stride + v * 8),
                         _mm512_cvtepi64_epi16(sums[t][v]));
  }

  // Measured (benchmarks/binary_product.py --pairs): as long as 3 to 4 planes.
  static constexpr Dot dot{{16, 4}, 4, 8, 0, 16, 4};
  static constexpr int dot_rows = 8;
  static constexpr int dot_vectors = 2;

  template <int T, int V>
  static void dot_tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* fields,
                       std::int64_t bytes, std::int32_t* out, std::int64_t stride) {
    Vector sums[T][V];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) sums[t][v] = filled(0);
    for (std::int64_t j = 0; j < words; ++j) {
      Vector w[V];
      for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_si512(weights + (v * words + j) * 64);
      for (int t = 0; t < T; ++t) {
        const Vector a = _mm512_set1_epi32(load32(fields + t * bytes + j * 4));
        for (int v = 0; v < V; ++v) sums[t][v] = _mm512_dpbusd_epi32(sums[t][v], a, w[v]);
      }
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) _mm512_storeu_si512(out + t * stride + v * 16, sums[t][v]);
  }
};

}  // namespace
}  // namespace bipft
