// From numbers to the bit planes of their codes (nn.quantizers.signed_codes).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "bits.h"
#include "math.h"
#include "program.h"

namespace bipft {
namespace {

// Bit i of eight codes, which are a byte each, as one byte.
inline std::uint8_t bit_of_eight(std::uint64_t codes, int i) {
  // The factor moves bit 8 l to bit 56 + l, and no two bits meet.
  return static_cast<std::uint8_t>(
      (((codes >> i) & 0x0101010101010101u) * 0x0102040810204080u) >> 56);
}

constexpr std::int64_t kCodes = 64;  // worked out together, so that it is done in vectors

// Up to kCodes codes, padded with zeros to a multiple of eight, to bit planes: plane(i) is where
// the i-th bits of a row go, and `first` is where the codes lie in it.
template <class Plane>
inline void split(const std::uint8_t* codes, std::int64_t first, std::int64_t count, int bits,
                  Plane plane) {
  for (int i = 0; i < bits; ++i) {
    std::uint8_t* out = plane(i) + first / 8;
    for (std::int64_t l = 0; l < count; l += 8) out[l / 8] = bit_of_eight(load64(codes + l), i);
  }
}

// The fields of a row, less `offset`, to a byte each: a field is the unsigned integer whose bits
// are the code's planes. A code is twice its field less 2^bits - 1; one bit is a sign.
inline void write_fields(const float* x, std::int64_t n, const float* shift, float scale, int bits,
                         int offset, std::uint8_t* out) {
  if (bits == 1) {
    for (std::int64_t k = 0; k < n; ++k)
      out[k] = static_cast<std::uint8_t>(int{x[k] >= shift[k]} - offset);
    return;
  }
  const float half = static_cast<float>(1 << (bits - 1)), step = 2.0f * scale;
  const float inverse = 1.0f / step, first = half - static_cast<float>(offset);
  const auto byte = [=](float steps) {
    // The bounds come first: what is not a number is then the least code.
    const float bounded = std::min(half - 1.0f, std::max(-half, std::floor(steps)));
    return static_cast<std::uint8_t>(static_cast<std::int32_t>(bounded + first));
  };
  for (std::int64_t k = 0; k < n; k += kCodes) {
    const std::int64_t count = std::min(kCodes, n - k);
    // A product takes a fraction of a division's time. Only next to a whole number of steps, or
    // where it is no number, can the two fall on different sides.
    int near = 0;
    for (std::int64_t l = k; l < k + count; ++l) {
      const float steps = (x[l] - shift[l]) * inverse;
      const float distance = std::fabs(steps - std::floor(steps + 0.5f));
      near |= !(distance > std::fabs(steps) * 0x1p-21f + 1e-30f);
      out[l] = byte(steps);
    }
    if (near)
      for (std::int64_t l = k; l < k + count; ++l) out[l] = byte((x[l] - shift[l]) / step);
  }
}

// The magnitude of a token's shifted activations: see nn.quantizers.token_magnitude.
inline float token_magnitude(Magnitude kind, const float* x, const float* shift, std::int64_t n) {
  constexpr float kSmallest = 1e-6f;
  if (kind == Magnitude::kNone) return 1.0f;
  if (kind == Magnitude::kMax)
    return std::max(kSmallest,
                    largest(n, [=](std::int64_t k) { return std::fabs(x[k] - shift[k]); }));
  const float squares = sum(n, [=](std::int64_t k) { return (x[k] - shift[k]) * (x[k] - shift[k]); });
  return std::max(kSmallest, std::sqrt(squares / static_cast<float>(n)));
}

// The k-bit codes of one row; plane(i) is where its i-th bits go, row_bytes(n) of them.
template <class Isa, class Plane>
inline void quantise(const float* x, std::int64_t n, const float* shift, float scale, int bits,
                     Plane plane) {
  for (int i = 0; i < bits; ++i) std::memset(plane(i), 0, row_bytes(n));
  if (bits == 1) {
    std::uint8_t* out = plane(0);
    std::int64_t k = 0;
    for (; k + 8 <= n; k += 8) out[k / 8] = Isa::at_least(x + k, shift + k);
    for (; k < n; ++k) out[k / 8] |= static_cast<std::uint8_t>(x[k] >= shift[k]) << (k % 8);
    return;
  }
  for (std::int64_t k = 0; k < n; k += kCodes) {
    std::uint8_t codes[kCodes] = {};
    const std::int64_t count = std::min(kCodes, n - k);
    write_fields(x + k, count, shift + k, scale, bits, 0, codes);
    split(codes, k, count, bits, plane);
  }
}

}  // namespace
}  // namespace bipft
