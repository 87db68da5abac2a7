// AVX-512 with VPOPCNTDQ: 8 rows of 64 bits a vector, XOR, popcount and add.
#pragma once

#include "bits.h"
#include "isa_avx2.h"

namespace bipft {
namespace {

struct Avx512 {
  static constexpr const char* name = "avx512";
  static constexpr Layout layout{8, 8};
  static constexpr int tokens = 4;
  static constexpr int vectors = 4;

  static std::int64_t prepared_bytes(std::int64_t in) { return row_bytes(in); }
  static void prepare(const std::uint8_t* row, std::int64_t in, std::uint8_t* out) {
    std::memcpy(out, row, row_bytes(in));
  }

  template <int T, int V>
  static void tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* const* rows,
                   std::uint16_t* out, std::int64_t stride) {
    __m512i sums[T][V];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) sums[t][v] = _mm512_setzero_si512();
    for (std::int64_t j = 0; j < words; ++j) {
      __m512i w[V];
      for (int v = 0; v < V; ++v) w[v] = _mm512_loadu_si512(weights + (v * words + j) * 64);
      for (int t = 0; t < T; ++t) {
        const __m512i a =
            _mm512_set1_epi64(static_cast<std::int64_t>(load64(rows[t] + j * 8)));
        for (int v = 0; v < V; ++v)
          sums[t][v] = _mm512_add_epi64(sums[t][v], _mm512_popcnt_epi64(_mm512_xor_si512(a, w[v])));
      }
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + t * stride + v * 8),
                         _mm512_cvtepi64_epi16(sums[t][v]));
  }

  // The instructions of the tile on registers alone, `rounds` times.
  static constexpr std::int64_t busy_macs = 4 * 512;
  static void busy(std::int64_t rounds) {
    __m512i a = _mm512_set1_epi64(1), w = _mm512_set1_epi64(2);
    __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    const auto step = [&](__m512i& sum) {
      hide(w);
      sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(a, w)));
    };
    for (; rounds > 0; --rounds) {
      step(sum0);
      step(sum1);
      step(sum2);
      step(sum3);
    }
    hide(sum0);
    hide(sum1);
    hide(sum2);
    hide(sum3);
  }

  static std::uint8_t at_least(const float* x, const float* threshold) {
    return Avx2::at_least(x, threshold);
  }
  static std::uint8_t inside(const std::uint16_t* x, const std::uint16_t* low,
                             const std::uint16_t* range, const std::uint16_t* flip) {
    return Avx2::inside(x, low, range, flip);
  }
  static std::uint8_t inside(const std::uint16_t* x, std::uint16_t low, std::uint16_t range) {
    return Avx2::inside(x, low, range);
  }
};

}  // namespace
}  // namespace bipft
