// Queries, keys and values of all tokens, as codes by head, where attention reads them.
#pragma once

#include <algorithm>
#include <vector>

#include "head.h"
#include "linear.h"
#include "path.h"
#include "rotary.h"

namespace bipft {
namespace {

// Operands: of planes.h or bytes.h.
template <class Isa, class Operands>
class Projections {
 public:
  Projections(const Program& program, const Input& input)
      : p_(program),
        a_(program.attention),
        in_(input),
        groups_(a_.heads / a_.key_value_heads),
        operands_(a_, input) {
    const std::int64_t heads = in_.batch * a_.heads;
    query_estimates_.resize(heads * in_.length * a_.score_rank);
    key_estimates_.resize(heads * in_.length * a_.score_rank);
    value_estimates_.resize(heads * in_.length * a_.context_rank);
  }

  // What one thread works in.
  struct Scratch {
    std::vector<float> row;
    std::vector<std::uint8_t> signs;
  };

  // `count` tokens of sequence `b` from token `start` on; `queries_from` (what keys
  // are projected from, too) and `values_from` are their inputs.
  void project(std::int64_t b, std::int64_t start, std::int64_t count, const float* queries_from,
               const float* values_from, Linear<Isa>& linear, Scratch& s) {
    for (const Role role : {Role::kQuery, Role::kKey, Role::kValue}) {
      const LinearPart& l = part(role);
      const std::int64_t heads = heads_of(role);
      const float* x = role == Role::kValue ? values_from : queries_from;
      linear.read(l, x, count);
      grow(s.row, l.out);
      grow(s.signs, row_bytes(l.out));
      for (std::int64_t t = 0; t < count; ++t) {
        if (l.folded) {
          linear.write_signs(l, t, s.signs.data());
          for (std::int64_t h = 0; h < heads; ++h)
            operands_.put_signs(role, b * heads + h, start + t, s.signs.data(), h * a_.head_dim);
        } else {
          linear.write(l, t, x + t * l.in, s.row.data());
          for (std::int64_t h = 0; h < heads; ++h)
            head(role, b, h, start + t, s.row.data() + h * a_.head_dim);
        }
      }
    }
  }

  // Number of parts that `weave` makes, each of one sequence and one head of keys and values.
  std::int64_t parts() const { return in_.batch * a_.key_value_heads; }
  void weave(std::int64_t part) { operands_.weave(part); }

  // Codes of the tile that begins at token `start`.
  const std::uint8_t* queries(std::int64_t b, std::int64_t h, std::int64_t start) const {
    return operands_.queries(b * a_.heads + h, start);
  }
  // All that a head reads of these tokens. Estimates of queries are (length, rank), of keys and
  // values (rank, length): loops over keys then run over neighbours.
  void show(std::int64_t b, std::int64_t h, Head& view) const {
    operands_.show(b * a_.heads + h, b * a_.key_value_heads + h / groups_, view);
    const std::int64_t first = (b * a_.heads + h) * in_.length;
    view.query_estimates = query_estimates_.data() + first * a_.score_rank;
    view.key_estimates = key_estimates_.data() + first * a_.score_rank;
    view.value_estimates = value_estimates_.data() + first * a_.context_rank;
  }

 private:
  const LinearPart& part(Role role) const {
    return role == Role::kQuery ? a_.query : role == Role::kKey ? a_.key : a_.value;
  }
  std::int64_t heads_of(Role role) const {
    return role == Role::kQuery ? a_.heads : a_.key_value_heads;
  }

  // One head's numbers of one token: turned, quantised, and estimated from.
  void head(Role role, std::int64_t b, std::int64_t h, std::int64_t t, float* x) {
    if (a_.rotary != Pairs::kNone && (role != Role::kValue || a_.rotary_values))
      rotate(a_.rotary, in_.cos + t * a_.head_dim, in_.sin + t * a_.head_dim, a_.head_dim, x);
    const Section &shift = role == Role::kQuery ? a_.query_shift
                           : role == Role::kKey ? a_.key_shift
                                                : a_.value_shift,
                  &clip = role == Role::kQuery ? a_.query_clip
                          : role == Role::kKey ? a_.key_clip
                                               : a_.value_clip;
    operands_.put(role, b * heads_of(role) + h, t, x, p_.at<float>(shift) + h * a_.head_dim,
                  p_.at<float>(clip)[h]);
    estimate(role, b, h, t, x);
  }

  // The low-rank maps of every head that reads these numbers.
  void estimate(Role role, std::int64_t b, std::int64_t h, std::int64_t t, const float* x) {
    const std::int64_t score = a_.score_rank, context = a_.context_rank, length = in_.length;
    if (role == Role::kQuery) {
      const std::int64_t row = (b * a_.heads + h) * length + t;
      return map(a_.score_left, score, h, x, query_estimates_.data() + row * score, 1);
    }
    for (std::int64_t reader = h * groups_; reader < (h + 1) * groups_; ++reader) {
      const std::int64_t first = (b * a_.heads + reader) * length;
      if (role == Role::kKey)
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
  const std::int64_t groups_;
  Operands operands_;
  std::vector<float> query_estimates_, key_estimates_, value_estimates_;
};

}  // namespace
}  // namespace bipft
