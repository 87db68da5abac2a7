// ARM NEON: CNT counts the bits of 16 bytes, one byte of 16 rows a vector.
#pragma once

#include <arm_neon.h>

#include "bits.h"

namespace bipft {
namespace {

struct Neon : PlainRows {
  static constexpr const char* name = "neon";
  static constexpr Layout layout{16, 1};
  static constexpr int tokens = 4;
  static constexpr int vectors = 4;
  static constexpr int flush = 31;  // bytes of a row that 8-bit sums can take: 31 * 8 <= 255

  using Vector = uint8x16_t;
  static constexpr std::int64_t macs = 128;
  static Vector filled(int x) { return vdupq_n_u8(static_cast<std::uint8_t>(x)); }
  static Vector step(Vector sum, Vector a, Vector w) {
    return vaddq_u8(sum, vcntq_u8(veorq_u8(w, a)));
  }

  template <int T, int V>
  static void tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* const* rows,
                   std::uint16_t* out, std::int64_t stride) {
    uint16x8_t wide[T][V][2];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v) wide[t][v][0] = wide[t][v][1] = vdupq_n_u16(0);
    const std::int64_t chunks = ceil_div(words, flush);
    for (std::int64_t c = 0; c < chunks; ++c) {
      uint8x16_t sums[T][V];
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) sums[t][v] = vdupq_n_u8(0);
      for (std::int64_t j = words * c / chunks; j < words * (c + 1) / chunks; ++j)
        for (int v = 0; v < V; ++v) {
          const uint8x16_t w = vld1q_u8(weights + (v * words + j) * 16);
          for (int t = 0; t < T; ++t)
            sums[t][v] = step(sums[t][v], vdupq_n_u8(rows[t][j]), w);
        }
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) {
          wide[t][v][0] = vaddw_u8(wide[t][v][0], vget_low_u8(sums[t][v]));
          wide[t][v][1] = vaddw_u8(wide[t][v][1], vget_high_u8(sums[t][v]));
        }
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        for (int h = 0; h < 2; ++h) vst1q_u16(out + t * stride + v * 16 + h * 8, wide[t][v][h]);
  }

  // Counted, not measured: 16 products take as many instructions as 7 planes of them.
  static constexpr Dot dot{{16, 1}, 1, 4, 128, 16, 8};
  static constexpr int dot_rows = 4;
  static constexpr int dot_vectors = 1;
  static constexpr int dot_flush = 16;  // products that 16-bit sums can take: 16 * 128 * 15

  using DotSession = NoSession;

  template <int T, int V>
  static void dot_tile(const std::uint8_t* weights, std::int64_t words, const std::uint8_t* fields,
                       std::int64_t bytes, std::int32_t* out, std::int64_t stride) {
    int32x4_t wide[T][V][4];
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        for (auto& lanes : wide[t][v]) lanes = vdupq_n_s32(0);
    for (std::int64_t start = 0; start < words; start += dot_flush) {
      const std::int64_t end = std::min(words, start + dot_flush);
      int16x8_t sums[T][V][2];
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) sums[t][v][0] = sums[t][v][1] = vdupq_n_s16(0);
      for (std::int64_t j = start; j < end; ++j)
        for (int v = 0; v < V; ++v) {
          const int8x16_t w = vreinterpretq_s8_u8(vld1q_u8(weights + (v * words + j) * 16));
          for (int t = 0; t < T; ++t) {
            const int8x16_t a = vreinterpretq_s8_u8(vdupq_n_u8(fields[t * bytes + j]));
            sums[t][v][0] = vmlal_s8(sums[t][v][0], vget_low_s8(w), vget_low_s8(a));
            sums[t][v][1] = vmlal_high_s8(sums[t][v][1], w, a);
          }
        }
      for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v)
          for (int h = 0; h < 2; ++h) {
            wide[t][v][2 * h] = vaddw_s16(wide[t][v][2 * h], vget_low_s16(sums[t][v][h]));
            wide[t][v][2 * h + 1] = vaddw_high_s16(wide[t][v][2 * h + 1], sums[t][v][h]);
          }
    }
    for (int t = 0; t < T; ++t)
      for (int v = 0; v < V; ++v)
        for (int q = 0; q < 4; ++q)
          vst1q_s32(out + t * stride + v * 16 + q * 4, wide[t][v][q]);
  }

  static std::uint8_t at_least(const float* x, const float* threshold) {
    const uint16x4_t first = vmovn_u32(vcgeq_f32(vld1q_f32(x), vld1q_f32(threshold)));
    const uint16x4_t second = vmovn_u32(vcgeq_f32(vld1q_f32(x + 4), vld1q_f32(threshold + 4)));
    return gather(vcombine_u16(first, second));
  }

  static std::uint8_t inside(const std::uint16_t* x, const std::uint16_t* low,
                             const std::uint16_t* range, const std::uint16_t* flip) {
    const uint16x8_t above = vsubq_u16(vld1q_u16(x), vld1q_u16(low));
    return gather(veorq_u16(vcleq_u16(above, vld1q_u16(range)), vld1q_u16(flip)));
  }

  static std::uint8_t inside(const std::uint16_t* x, std::uint16_t low, std::uint16_t range) {
    return gather(vcleq_u16(vsubq_u16(vld1q_u16(x), vdupq_n_u16(low)), vdupq_n_u16(range)));
  }

 private:
  // Eight lanes of all ones or zeros to eight bits.
  static std::uint8_t gather(uint16x8_t lanes) {
    const std::uint16_t places[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    return static_cast<std::uint8_t>(vaddvq_u16(vandq_u16(lanes, vld1q_u16(places))));
  }
};

}  // namespace
}  // namespace bipft
