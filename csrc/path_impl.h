// Included once by the file of each path, which is compiled for its processor.
#pragma once

#include <algorithm>

#include "block.h"
#include "bytes.h"
#include "path.h"
#include "planes.h"
#include "product.h"
#include "rows.h"
#include "threads.h"

namespace bipft {
namespace {

template <class Isa>
void product(const std::uint8_t* weights, std::int64_t in, std::int64_t out,
             const std::uint8_t* activations, std::int64_t count, std::int32_t* result,
             int threads) {
  constexpr std::int64_t kRows = 8 * Isa::tokens;
  const std::int64_t stride = Product<Isa>::padded(out);
  parallel_for(ceil_div(count, kRows), threads, [&](std::int64_t item, int) {
    const std::int64_t first = item * kRows, rows = std::min(kRows, count - first);
    Product<Isa> multiply;
    std::vector<std::uint16_t> popcounts(rows * stride);
    multiply({weights, in, out}, activations + first * row_bytes(in), rows, popcounts.data(),
             stride);
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t n = 0; n < out; ++n)
        result[(first + t) * out + n] =
            static_cast<std::int32_t>(in) - 2 * static_cast<std::int32_t>(popcounts[t * stride + n]);
  });
}

template <class Isa>
void binary_linear(const LinearProgram& program, const float* x, std::int64_t count, float* y,
                   int threads) {
  const LinearPart& l = program.linear;
  const std::int64_t tokens =
      tokens_of_item(l.kernel == Kernel::kInt8 ? Isa::dot.tokens : Isa::tokens, Isa::tokens, count,
                     threads);
  std::vector<Linear<Isa>> workers(threads, Linear<Isa>(program));
  parallel_for(ceil_div(count, tokens), threads, [&](std::int64_t item, int worker) {
    const std::int64_t first = item * tokens;
    workers[worker](l, x + first * l.in, std::min(tokens, count - first), y + first * l.out);
  });
}

template <class Isa>
void block(const Program& program, const Input& input, float* y, int threads) {
  if (program.attention.kernel == Kernel::kInt8)
    Block<Isa, ByteProducts<Isa>>(program, input, threads)(y);
  else
    Block<Isa, PlaneProducts<Isa>>(program, input, threads)(y);
}

// The arithmetic of the tile on registers alone, `rounds` times four steps. Four sums, as one would
// wait for itself.
template <class Isa>
void busy(std::int64_t rounds) {
  auto a = Isa::filled(1), w = Isa::filled(2);
  auto sum0 = Isa::filled(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto step = [&](typename Isa::Vector& sum) {
    hide(w);
    sum = Isa::step(sum, a, w);
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

template <class Isa>
constexpr Path make_path(bool (*supported)()) {
  return {Isa::name,  Isa::layout, Isa::dot, supported, product<Isa>, binary_linear<Isa>,
          block<Isa>, rows,        words,    linear,    busy<Isa>,    4 * Isa::macs};
}

}  // namespace
}  // namespace bipft
