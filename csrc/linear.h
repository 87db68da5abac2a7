// Binary linear layers, a few tokens at a time: read the input, then write the output as numbers or
// as signs.
#pragma once

#include <vector>

#include "codes.h"
#include "dot.h"
#include "math.h"
#include "product.h"
#include "program.h"

namespace bipft {
namespace {

template <class Isa>
class Linear {
 public:
  explicit Linear(const Header& program) : p_(program) {}

  // Quantise `count` rows of x and multiply them with the weights.
  void read(const LinearPart& l, const float* x, std::int64_t count) {
    const auto *shift = p_.at<float>(l.shift);
    const auto scale = static_cast<float>(l.activation_scale);
    const auto bits = static_cast<int>(l.bits);
    grow(magnitudes_, count);
    for (std::int64_t t = 0; t < count; ++t)
      magnitudes_[t] = token_magnitude(l.magnitude, x + t * l.in, shift, l.in);
    if (l.kernel == Kernel::kInt8) {
      grow(fields_, DotProduct<Isa>::padded_count(count) * DotProduct<Isa>::row_bytes(l.in));
      for (std::int64_t t = 0; t < count; ++t)
        write_fields(x + t * l.in, l.in, shift, scale * magnitudes_[t], bits, Isa::dot.offset,
                     fields_of(l, t));
      return multiply_fields(l, count);
    }
    const std::int64_t bytes = row_bytes(l.in);
    grow(planes_, l.bits * count * bytes);
    for (std::int64_t t = 0; t < count; ++t)
      quantise<Isa>(x + t * l.in, l.in, shift, scale * magnitudes_[t], bits,
                    [&](int i) { return planes_.data() + (i * count + t) * bytes; });
    multiply_planes(l, planes_.data(), count);
  }

  // The same for an input that is signs already: (count, row_bytes(in)).
  void read_signs(const LinearPart& l, const std::uint8_t* signs, std::int64_t count) {
    if (l.kernel == Kernel::kPopcount) return multiply_planes(l, signs, count);
    grow(fields_, DotProduct<Isa>::padded_count(count) * DotProduct<Isa>::row_bytes(l.in));
    for (std::int64_t t = 0; t < count; ++t) {
      const std::uint8_t* row = signs + t * row_bytes(l.in);
      std::uint8_t* fields = fields_of(l, t);
      for (std::int64_t k = 0; k < l.in; ++k)
        fields[k] = static_cast<std::uint8_t>((row[k / 8] >> (k % 8) & 1) - Isa::dot.offset);
    }
    multiply_fields(l, count);
  }

  // Output row t: y = scale * acc + bias + up (down x), x being the row that was read.
  void write(const LinearPart& l, std::int64_t t, const float* x, float* y) {
    if (l.kernel == Kernel::kInt8) {
      const std::int32_t *dots = dots_of(l, t), *correction = p_.at<std::int32_t>(l.correction);
      scale_and_add(l, t, y, [=](std::int64_t n) { return 2 * dots[n] + correction[n]; });
    } else if (l.bits == 1 && l.weight_bits == 1) {
      const auto in = static_cast<std::int32_t>(l.in);
      const std::uint16_t* counts = popcounts_.data() + t * Product<Isa>::padded(l.out);
      scale_and_add(l, t, y, [=](std::int64_t n) {
        return in - 2 * static_cast<std::int32_t>(counts[n]);
      });
    } else {
      add_planes(l, t);
      const std::int32_t* acc = sums_.data();
      scale_and_add(l, t, y, [=](std::int64_t n) { return acc[n]; });
    }
    const float *down = p_.at<float>(l.down), *up = p_.at<float>(l.up);
    for (std::int64_t r = 0; r < l.rank; ++r) {
      const float weight = dot(down + r * l.in, x, l.in);
      for (std::int64_t n = 0; n < l.out; ++n) y[n] += weight * up[r * l.out + n];
    }
  }

  // The signs of output row t, where scale, bias and all that follows is folded into intervals.
  void write_signs(const LinearPart& l, std::int64_t t, std::uint8_t* bits) {
    const std::uint16_t* x = counts(l, t);
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
  // Row t without its estimate, from its integers.
  template <class Sum>
  void scale_and_add(const LinearPart& l, std::int64_t t, float* y, Sum acc) const {
    const float *scale = p_.at<float>(l.scale), *bias = p_.at<float>(l.bias);
    if (l.magnitude == Magnitude::kNone) {
      for (std::int64_t n = 0; n < l.out; ++n)
        y[n] = scale[n] * static_cast<float>(acc(n)) + bias[n];
    } else {
      const float magnitude = magnitudes_[t];
      for (std::int64_t n = 0; n < l.out; ++n)
        y[n] = scale[n] * static_cast<float>(acc(n)) * magnitude + bias[n];
    }
  }

  // planes: (bits, count, row_bytes(in)).
  void multiply_planes(const LinearPart& l, const std::uint8_t* planes, std::int64_t count) {
    // Planes of weights follow each other, so they are as many more rows.
    const std::int64_t stride = l.weight_bits * Product<Isa>::padded(l.out);
    const std::int64_t rows = l.bits * count;
    grow(popcounts_, rows * stride);
    product_({p_.at<std::uint8_t>(l.weights), l.in, stride}, planes, rows, popcounts_.data(),
             stride);
    count_ = count;
  }

  std::uint8_t* fields_of(const LinearPart& l, std::int64_t t) {
    return fields_.data() + t * DotProduct<Isa>::row_bytes(l.in);
  }

  void multiply_fields(const LinearPart& l, std::int64_t count) {
    grow(sums_, DotProduct<Isa>::padded_count(count) * DotProduct<Isa>::padded(l.out));
    DotProduct<Isa>::run({p_.at<std::uint8_t>(l.weights), l.in, l.out}, fields_.data(), count,
                         sums_.data(), DotProduct<Isa>::padded(l.out));
  }

  // Popcounts of row t, those of all planes added up to one that a folded linear has 16 bits for.
  const std::uint16_t* counts(const LinearPart& l, std::int64_t t) {
    const std::int64_t padded = Product<Isa>::padded(l.out);
    if (l.kernel == Kernel::kInt8) {
      const auto most = static_cast<std::int32_t>(largest_sum(l.in, 1, l.weight_bits));
      const std::int32_t *dots = dots_of(l, t), *correction = p_.at<std::int32_t>(l.correction);
      grow(popcounts_, padded);
      for (std::int64_t n = 0; n < l.out; ++n)
        popcounts_[n] = static_cast<std::uint16_t>((most - correction[n]) / 2 - dots[n]);
      return popcounts_.data();
    }
    std::uint16_t* x = popcounts_.data() + t * l.weight_bits * padded;
    for (std::int64_t p = 1; p < l.weight_bits; ++p)
      for (std::int64_t n = 0; n < l.out; ++n)
        x[n] = static_cast<std::uint16_t>(x[n] + (x[p * padded + n] << p));
    return x;
  }

  const std::int32_t* dots_of(const LinearPart& l, std::int64_t t) const {
    return sums_.data() + t * DotProduct<Isa>::padded(l.out);
  }

  // The integers of row t to sums_: no sum of 65534 codes of eight bits by four has more than 32
  // bits.
  void add_planes(const LinearPart& l, std::int64_t t) {
    const std::int64_t padded = Product<Isa>::padded(l.out);
    const auto most = static_cast<std::int32_t>(largest_sum(l.in, l.bits, l.weight_bits));
    grow(sums_, l.out);
    std::fill_n(sums_.data(), l.out, most);
    for (std::int64_t i = 0; i < l.bits; ++i)
      for (std::int64_t p = 0; p < l.weight_bits; ++p) {
        const std::uint16_t* counts =
            popcounts_.data() + ((i * count_ + t) * l.weight_bits + p) * padded;
        for (std::int64_t n = 0; n < l.out; ++n)
          sums_[n] -= static_cast<std::int32_t>(counts[n]) << (i + p + 1);
      }
  }

  const Header& p_;
  Product<Isa> product_;
  std::vector<std::uint8_t> planes_;
  std::vector<std::uint8_t, Unset<std::uint8_t>> fields_;
  std::vector<std::uint16_t> popcounts_;
  std::vector<std::int32_t, Unset<std::int32_t>> sums_;
  std::vector<float> magnitudes_;  // of the rows that were read
  std::int64_t count_ = 0;  // rows that were read
};

}  // namespace
}  // namespace bipft
