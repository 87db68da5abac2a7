// A feed-forward network of a few tokens, from its input to the residual sum.
#pragma once

#include <vector>

#include "activation.h"
#include "linear.h"
#include "norm.h"

namespace bipft {
namespace {

template <class Isa>
class FeedForward {
 public:
  explicit FeedForward(const Program& program) : p_(program) {}

  // x and y: the residual stream before and after, `count` rows; they must not overlap.
  void operator()(const FeedForwardPart& f, const float* x, std::int64_t count, Linear<Isa>& linear,
                  float* y) {
    const float* from = x;
    if (stands_before(f.norm)) {
      grow(normed_, count * f.up.in);
      normalise(p_, f.norm, x, count, normed_.data());
      from = normed_.data();
    }
    linear.read(f.up, from, count);
    if (f.up.folded)
      inner_signs(f, count, linear);
    else
      inner_numbers(f, from, count, linear);
    for (std::int64_t t = 0; t < count; ++t)
      linear.write(f.down, t, inner_.data() + t * f.down.in, y + t * f.down.out);
    add_residual(p_, f.norm, x, count, f.down.out, y);
  }

 private:
  // Both read what lies between the linears into `down`. Folded, it is never a number.
  void inner_signs(const FeedForwardPart& f, std::int64_t count, Linear<Isa>& linear) {
    const std::int64_t bytes = row_bytes(f.up.out);
    grow(signs_, count * bytes);
    for (std::int64_t t = 0; t < count; ++t) linear.write_signs(f.up, t, signs_.data() + t * bytes);
    linear.read_signs(f.down, signs_.data(), count);
  }

  void inner_numbers(const FeedForwardPart& f, const float* from, std::int64_t count,
                     Linear<Isa>& linear) {
    const std::int64_t width = f.up.out;
    grow(inner_, count * width);
    for (std::int64_t t = 0; t < count; ++t)
      linear.write(f.up, t, from + t * f.up.in, inner_.data() + t * width);
    if (f.gate.in) {
      grow(gate_, count * width);
      linear(f.gate, from, count, gate_.data());
      activate(f.activation, gate_.data(), count * width);
      for (std::int64_t i = 0; i < count * width; ++i) inner_[i] *= gate_[i];
    } else {
      activate(f.activation, inner_.data(), count * width);
    }
    linear.read(f.down, inner_.data(), count);
  }

  const Program& p_;
  std::vector<float> normed_, inner_, gate_;
  std::vector<std::uint8_t> signs_;
};

}  // namespace
}  // namespace bipft
