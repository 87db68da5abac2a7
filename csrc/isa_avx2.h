// AVX2 has no vector popcount. A nibble of activations has 16 values, so a table of
// popcount(nibble XOR w) for all 16 nibbles w fits one shuffle: 32 rows by 4 bits in two
// instructions (shuffle, add), half of what XOR and a popcount by tables take.
#pragma once

#include "bits.h"

namespace bipft {
namespace {

struct Avx2 {
  static constexpr const char* name = "avx2";
  static constexpr Layout layout{32, 1};
  static constexpr int tokens = 4;
  static constexpr int vectors = 2;
  static constexpr int flush = 31;  // bytes of a row that 8-bit sums can take: 31 * 8 <= 255

  // One table of 16 bytes a nibble.
  static std::int64_t prepared_bytes(std::int64_t in) { return ceil_div(in, 8) * 32; }
  static void prepare(const std::uint8_t* row, std::int64_t in, std::uint8_t* out) {
    const __m128i nibbles = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i counts = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    for (std::int64_t j = 0; j < ceil_div(in, 8); ++j)
      for (int half = 0; half < 2; ++half) {
        const __m128i a = _mm_set1_epi8(static_cast<char>((row[j] >> (4 * half)) & 15));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j * 32 + half * 16),
                         _mm_shuffle_epi8(counts, _mm_xor_si128(nibbles, a)));
      }
  }

  // `a` is a table, `w` holds a nibble of every row.
  using Vector = __m256i;
  static constexpr std::int64_t macs = 32 * 4;
  static Vector filled(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
  static Vector step(Vector sum, Vector a, Vector w) {
    return _mm256_add_epi8(sum, _mm256_shuffle_epi8(a, w));
  }

  template <int T, int V>
  static void tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* const* rows,
                   std::uint16_t* out, std::int64_t stride) {
    const __m256i low_half = _mm256_set1_epi8(15);
    __m256i wide[T][V][2];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) wide[t][v][0] = wide[t][v][1] = _mm256_setzero_si256();
    // As many bytes in every chunk: the last would otherwise be short.
    const std::int64_t chunks = ceil_div(words, flush);
    for (std::int64_t c = 0; c < chunks; ++c) {
      __m256i sums[T][V];
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) sums[t][v] = _mm256_setzero_si256();
      for (std::int64_t j = words * c / chunks; j < words * (c + 1) / chunks; ++j) {
        // One nibble after the other: both at once would not fit the registers.
        for (int half = 0; half < 2; ++half) {
          __m256i nibbles[V];
          for (int v = 0; v < V; ++v) {
            const __m256i w = _mm256_loadu_si256(
                reinterpret_cast<const __m256i*>(weights + (v * words + j) * 32));
            nibbles[v] = _mm256_and_si256(half ? _mm256_srli_epi16(w, 4) : w, low_half);
          }
          for (int t = 0; t < T; ++t) {
            const __m256i table = _mm256_broadcastsi128_si256(
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[t] + j * 32) + half));
            for (int v = 0; v < V; ++v) {
              sums[t][v] = step(sums[t][v], table, nibbles[v]);
              keep_in_register(sums[t][v]);
            }
          }
        }
      }
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) {
          const __m256i first = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(sums[t][v]));
          const __m256i second = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(sums[t][v], 1));
          wide[t][v][0] = _mm256_add_epi16(wide[t][v][0], first);
          wide[t][v][1] = _mm256_add_epi16(wide[t][v][1], second);
        }
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        for (int h = 0; h < 2; ++h)
          _mm256_storeu_si256(
              reinterpret_cast<__m256i*>(out + t * stride + v * 32 + h * 16), wide[t][v][h]);
  }

  // Measured (benchmarks/binary_product.py --pairs): as long as 5.5 planes.
  static constexpr Dot dot{{8, 4}, 4, 4, 0, 16, 6};
  static constexpr int dot_rows = 4;
  static constexpr int dot_vectors = 1;
  static constexpr int dot_flush = 4;  // products of pairs that 16-bit sums can take: 4 * 7650

  using DotSession = NoSession;

  template <int T, int V>
  static void dot_tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* fields,
                       std::int64_t bytes, std::int32_t* out, std::int64_t stride) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i wide[T][V];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) wide[t][v] = _mm256_setzero_si256();
    for (std::int64_t start = 0; start < words; start += dot_flush) {
      const std::int64_t end = std::min(words, start + dot_flush);
      __m256i sums[T][V];
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) sums[t][v] = _mm256_setzero_si256();
      for (std::int64_t j = start; j < end; ++j)
        for (int v = 0; v < V; ++v) {
          const __m256i w = _mm256_loadu_si256(
              reinterpret_cast<const __m256i*>(weights + (v * words + j) * 32));
          for (int t = 0; t < T; ++t) {
            const __m256i a = _mm256_set1_epi32(load32(fields + t * bytes + j * 4));
            sums[t][v] = _mm256_add_epi16(sums[t][v], _mm256_maddubs_epi16(a, w));
          }
        }
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v)
          wide[t][v] = _mm256_add_epi32(wide[t][v], _mm256_madd_epi16(sums[t][v], ones));
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + t * stride + v * 8), wide[t][v]);
  }

  static std::uint8_t at_least(const float* x, const float* threshold) {
    const __m256 least = _mm256_cmp_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(threshold), _CMP_GE_OQ);
    return static_cast<std::uint8_t>(_mm256_movemask_ps(least));
  }

  static std::uint8_t inside(const std::uint16_t* x, const std::uint16_t* low,
                             const std::uint16_t* range, const std::uint16_t* flip) {
    return to_bits(_mm_xor_si128(within(load(x), load(low), load(range)), load(flip)));
  }

  static std::uint8_t inside(const std::uint16_t* x, std::uint16_t low, std::uint16_t range) {
    return to_bits(within(load(x), _mm_set1_epi16(static_cast<short>(low)),
                          _mm_set1_epi16(static_cast<short>(range))));
  }

 private:
  static __m128i load(const std::uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static __m128i within(__m128i x, __m128i low, __m128i range) {
    const __m128i above = _mm_sub_epi16(x, low);
    return _mm_cmpeq_epi16(_mm_min_epu16(above, range), above);
  }
  // Eight lanes of all ones or zeros to eight bits.
  static std::uint8_t to_bits(__m128i lanes) {
    return static_cast<std::uint8_t>(_mm_movemask_epi8(_mm_packs_epi16(lanes, lanes)));
  }

  // Compilers reorder the sums of both nibbles, run out of registers and go through memory, at
  // half the speed.
  static void keep_in_register(__m256i& x) {
#if defined(__GNUC__) || defined(__clang__)
    asm("" : "+x"(x));
#endif
  }
};

}  // namespace
}  // namespace bipft
