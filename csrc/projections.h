// Queries, keys and values of all tokens, as bits by head, where attention reads them.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.h"
#include "path.h"
#include "rotary.h"
#include "weave.h"

namespace bipft {
namespace {

template <class Isa>
class Projections {
 public:
  Projections(const Program& program, const Input& input)
      : p_(program),
        a_(program.attention),
        in_(input),
        groups_(a_.heads / a_.key_value_heads),
        bytes_(row_bytes(a_.head_dim)) {
    const std::int64_t heads = in_.batch * a_.heads, planes = a_.key_value_bits;
    const std::int64_t shared = in_.batch * a_.key_value_heads * planes;
    queries_.resize(heads * round_up(in_.length, kTile) * a_.bits * bytes_);
    keys_.resize(shared * in_.length * bytes_);
    values_.resize(shared * in_.length * bytes_);
    woven_keys_.resize(shared * key_bytes());
    woven_values_.resize(shared * value_bytes());
    ones_.resize(shared * a_.head_dim);
    query_estimates_.resize(heads * in_.length * a_.score_rank);
    key_estimates_.resize(heads * in_.length * a_.score_rank);
    value_estimates_.resize(heads * in_.length * a_.context_rank);
  }

  // What one thread works in.
  struct Scratch {
    std::vector<float> row;
    std::vector<std::uint8_t> bits;
  };

  // `count` tokens of sequence `b` from token `start` on; `queries_from` (what keys
  // are projected from, too) and `values_from` are their inputs.
  void project(std::int64_t b, std::int64_t start, std::int64_t count, const float* queries_from,
               const float* values_from, Linear<Isa>& linear, Scratch& s) {
    for (const Role role : {kQuery, kKey, kValue}) {
      const LinearPart& l = part(role);
      const std::int64_t heads = heads_of(role);
      const float* x = role == kValue ? values_from : queries_from;
      linear.read(l, x, count);
      grow(s.row, l.out);
      grow(s.bits, std::max(row_bytes(l.out), std::max(a_.bits, a_.key_value_bits) * bytes_));
      for (std::int64_t t = 0; t < count; ++t) {
        if (l.folded) {
          linear.write_signs(l, t, s.bits.data());
          for (std::int64_t h = 0; h < heads; ++h)
            place(role, b, h, start + t, 0, s.bits.data(), h * a_.head_dim);
        } else {
          linear.write(l, t, x + t * l.in, s.row.data());
          for (std::int64_t h = 0; h < heads; ++h)
            head(role, b, h, start + t, s.row.data() + h * a_.head_dim, s.bits.data());
        }
      }
    }
  }

  // Number of parts that `weave` makes, each of one sequence and one head of keys and values.
  std::int64_t parts() const { return in_.batch * a_.key_value_heads; }

  void weave(std::int64_t part) {
    const std::int64_t dims = a_.head_dim, length = in_.length;
    std::vector<std::uint8_t> transposed(round_up(dims, 64) * row_bytes(length));
    for (std::int64_t plane = 0; plane < a_.key_value_bits; ++plane) {
      const std::int64_t n = part * a_.key_value_bits + plane, first = n * length * bytes_;
      weave_keys<Isa>(keys_.data() + first, length, dims, woven_keys_.data() + n * key_bytes());
      weave_values<Isa>(values_.data() + first, length, dims, transposed.data(),
                        woven_values_.data() + n * value_bytes(), ones_.data() + n * dims);
    }
  }

  // Bit planes (bits, Isa::tokens, row_bytes(head_dim)) of the tile that begins at token `start`.
  const std::uint8_t* queries(std::int64_t b, std::int64_t h, std::int64_t start) const {
    return queries_.data() + query_offset(b, h, start);
  }
  // The rest by planes: keys (length) rows, then keys and values as woven, and (head_dim) counts.
  const std::uint8_t* keys(std::int64_t b, std::int64_t h) const {
    return keys_.data() + shared(b, h) * in_.length * bytes_;
  }
  const std::uint8_t* woven_keys(std::int64_t b, std::int64_t h) const {
    return woven_keys_.data() + shared(b, h) * key_bytes();
  }
  const std::uint8_t* woven_values(std::int64_t b, std::int64_t h) const {
    return woven_values_.data() + shared(b, h) * value_bytes();
  }
  const std::uint16_t* ones(std::int64_t b, std::int64_t h) const {
    return ones_.data() + shared(b, h) * a_.head_dim;
  }
  // Of queries (length, rank), of keys and values (rank, length): loops over keys then run over
  // neighbours.
  const float* query_estimates(std::int64_t b, std::int64_t h) const {
    return query_estimates_.data() + (b * a_.heads + h) * in_.length * a_.score_rank;
  }
  const float* key_estimates(std::int64_t b, std::int64_t h) const {
    return key_estimates_.data() + (b * a_.heads + h) * in_.length * a_.score_rank;
  }
  const float* value_estimates(std::int64_t b, std::int64_t h) const {
    return value_estimates_.data() + (b * a_.heads + h) * in_.length * a_.context_rank;
  }

 private:
  static constexpr std::int64_t kTile = Isa::tokens;
  enum Role { kQuery, kKey, kValue };

  const LinearPart& part(Role role) const {
    return role == kQuery ? a_.query : role == kKey ? a_.key : a_.value;
  }
  std::int64_t heads_of(Role role) const { return role == kQuery ? a_.heads : a_.key_value_heads; }

  std::int64_t key_bytes() const { return interleaved_bytes(Isa::layout, a_.head_dim, in_.length); }
  std::int64_t value_bytes() const {
    return interleaved_bytes(Isa::layout, in_.length, a_.head_dim);
  }
  std::int64_t query_offset(std::int64_t b, std::int64_t h, std::int64_t start) const {
    const std::int64_t rows = round_up(in_.length, kTile);
    return ((b * a_.heads + h) * rows + start) * a_.bits * bytes_;
  }
  // The first plane of the keys and values that head h reads.
  std::int64_t shared(std::int64_t b, std::int64_t h) const {
    return (b * a_.key_value_heads + h / groups_) * a_.key_value_bits;
  }

  // One head's numbers of one token: turned, quantised, and estimated from.
  void head(Role role, std::int64_t b, std::int64_t h, std::int64_t t, float* x,
            std::uint8_t* bits) {
    if (a_.rotary != Pairs::kNone && (role != kValue || a_.rotary_values))
      rotate(a_.rotary, in_.cos + t * a_.head_dim, in_.sin + t * a_.head_dim, a_.head_dim, x);
    const Section &shift = role == kQuery ? a_.query_shift
                           : role == kKey ? a_.key_shift
                                          : a_.value_shift,
                  &clip = role == kQuery ? a_.query_clip
                          : role == kKey ? a_.key_clip
                                         : a_.value_clip;
    const auto planes = static_cast<int>(role == kQuery ? a_.bits : a_.key_value_bits);
    quantise<Isa>(x, a_.head_dim, p_.at<float>(shift) + h * a_.head_dim, p_.at<float>(clip)[h],
                  planes, [&](int plane) { return bits + plane * bytes_; });
    for (int plane = 0; plane < planes; ++plane)
      place(role, b, h, t, plane, bits + plane * bytes_, 0);
    estimate(role, b, h, t, x);
  }

  // Bits [first, first + head_dim) of a row to where attention reads them: queries lie by tiles of
  // tokens, keys and values by planes.
  void place(Role role, std::int64_t b, std::int64_t h, std::int64_t t, std::int64_t plane,
             const std::uint8_t* row, std::int64_t first) {
    std::uint8_t* target =
        role == kQuery
            ? queries_.data() + query_offset(b, h, t - t % kTile) +
                  (plane * kTile + t % kTile) * bytes_
            : (role == kKey ? keys_ : values_).data() +
                  (((b * a_.key_value_heads + h) * a_.key_value_bits + plane) * in_.length + t) *
                      bytes_;
    for (std::int64_t k = 0; k < a_.head_dim; k += 64) {
      const auto count = static_cast<int>(std::min<std::int64_t>(64, a_.head_dim - k));
      store64(target + k / 8, extract_bits(row, first + k, count));
    }
  }

  // The low-rank maps of every head that reads these numbers.
  void estimate(Role role, std::int64_t b, std::int64_t h, std::int64_t t, const float* x) {
    const std::int64_t score = a_.score_rank, context = a_.context_rank, length = in_.length;
    if (role == kQuery) {
      const std::int64_t row = (b * a_.heads + h) * length + t;
      return map(a_.score_left, score, h, x, query_estimates_.data() + row * score, 1);
    }
    for (std::int64_t reader = h * groups_; reader < (h + 1) * groups_; ++reader) {
      const std::int64_t first = (b * a_.heads + reader) * length;
      if (role == kKey)
        map(a_.score_right, score, reader, x, key_estimates_.data() + first * score + t, length);
      else
        map(a_.context_left, context, reader, x, value_estimates_.data() + first * context + t,
            length);
    }
  }

  // A head's low-rank map of x, its numbers `stride` apart.
  void map(const Section& of, std::int64_t rank, std::int64_t h, const float* x, float* out,
           std::int64_t stride) const {
    for (std::int64_t r = 0; r < rank; ++r)
      out[r * stride] = dot(p_.at<float>(of) + (h * rank + r) * a_.head_dim, x, a_.head_dim);
  }

  const Program& p_;
  const AttentionPart& a_;
  const Input& in_;
  const std::int64_t groups_, bytes_;
  std::vector<std::uint8_t> queries_, keys_, values_, woven_keys_, woven_values_;
  std::vector<std::uint16_t> ones_;
  std::vector<float> query_estimates_, key_estimates_, value_estimates_;
};

}  // namespace
}  // namespace bipft
