// Binary linear layers, a few tokens at a time: read the input, then write the output as numbers or
// as signs.
#pragma once

#include <vector>

#include "codes.h"
#include "product.h"
#include "program.h"

namespace bipft {
namespace {

template <class Isa>
class Linear {
 public:
  explicit Linear(const Program& program) : p_(program) {}

  // Quantise `count` rows of x, at most Isa::tokens, and multiply them with the weights.
  void read(const LinearPart& l, const float* x, std::int64_t count) {
    const std::int64_t bytes = row_bytes(l.in);
    grow(planes_, l.bits * Isa::tokens * bytes);
    for (std::int64_t t = 0; t < count; ++t)
      quantise<Isa>(x + t * l.in, l.in, p_.at<float>(l.shift),
                    static_cast<float>(l.activation_scale), static_cast<int>(l.bits),
                    [&](int i) { return planes_.data() + (i * Isa::tokens + t) * bytes; });
    read_planes(l, planes_.data(), count);
  }

  // The same for an input that is bits already: (plane, Isa::tokens, row_bytes(in)).
  void read_planes(const LinearPart& l, const std::uint8_t* planes, std::int64_t count) {
    const std::int64_t stride = Product<Isa>::padded(l.out);
    grow(popcounts_, l.bits * Isa::tokens * stride);
    const Weights weights{p_.at<std::uint8_t>(l.weights), l.in, l.out};
    for (std::int64_t plane = 0; plane < l.bits; ++plane)
      product_(weights, planes + plane * Isa::tokens * row_bytes(l.in), count,
               popcounts_.data() + plane * Isa::tokens * stride, stride);
  }

  // Output row t: y = scale * acc + bias + up (down x), x being the row that was read.
  void write(const LinearPart& l, std::int64_t t, const float* x, float* y) const {
    const std::int64_t stride = Product<Isa>::padded(l.out);
    const float *scale = p_.at<float>(l.scale), *bias = p_.at<float>(l.bias);
    const auto in = static_cast<std::int32_t>(l.in);
    const auto sum = [=](std::uint16_t popcount) {
      return in - 2 * static_cast<std::int32_t>(popcount);
    };
    const std::uint16_t* counts = popcounts_.data() + t * stride;
    if (l.bits == 1) {
      for (std::int64_t n = 0; n < l.out; ++n)
        y[n] = scale[n] * static_cast<float>(sum(counts[n])) + bias[n];
    } else {
      // No sum of 65534 codes of eight bits exceeds the integers that fp32 holds.
      std::fill_n(y, l.out, 0.0f);
      for (std::int64_t i = 0; i < l.bits; ++i, counts += Isa::tokens * stride)
        for (std::int64_t n = 0; n < l.out; ++n)
          y[n] += static_cast<float>(sum(counts[n]) * (1 << i));
      for (std::int64_t n = 0; n < l.out; ++n) y[n] = scale[n] * y[n] + bias[n];
    }
    const float *down = p_.at<float>(l.down), *up = p_.at<float>(l.up);
    for (std::int64_t r = 0; r < l.rank; ++r) {
      const float weight = dot(down + r * l.in, x, l.in);
      for (std::int64_t n = 0; n < l.out; ++n) y[n] += weight * up[r * l.out + n];
    }
  }

  // The signs of output row t, where scale, bias and all that follows is folded into intervals.
  void write_signs(const LinearPart& l, std::int64_t t, std::uint8_t* bits) const {
    const std::uint16_t* x = popcounts_.data() + t * Product<Isa>::padded(l.out);
    const auto *low = p_.at<std::uint16_t>(l.low), *range = p_.at<std::uint16_t>(l.range),
               *flip = p_.at<std::uint16_t>(l.flip);
    std::memset(bits, 0, row_bytes(l.out));
    // Rows of intervals are padded to whole bytes, and padding is never inside.
    for (std::int64_t n = 0; n < l.out; n += 8)
      bits[n / 8] = Isa::inside(x + n, low + n, range + n, flip + n);
  }

  // All of it: (count, in) to (count, out).
  void operator()(const LinearPart& l, const float* x, std::int64_t count, float* y) {
    read(l, x, count);
    for (std::int64_t t = 0; t < count; ++t) write(l, t, x + t * l.in, y + t * l.out);
  }

 private:
  const Program& p_;
  Product<Isa> product_;
  std::vector<std::uint8_t> planes_;
  std::vector<std::uint16_t> popcounts_;
};

}  // namespace
}  // namespace bipft
