// One encoder block, fused: tokens go through a few at a time, and what lies between the products
// stays in cache as codes.
#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"
#include "feed_forward.h"
#include "path.h"
#include "positions.h"
#include "projections.h"
#include "threads.h"

namespace bipft {
namespace {

// Products: how attention multiplies, see planes.h and bytes.h.
template <class Isa, class Products>
class Block {
 public:
  Block(const Program& program, const Input& input, int threads)
      : p_(program),
        a_(program.attention),
        in_(input),
        tokens_(tokens_of_item(program.tokens, kTile, input.batch * input.length, threads)),
        threads_(threads),
        projections_(program, input),
        position_keys_(program, a_.position_key, input),
        position_queries_(program, a_.position_query, input),
        forbidden_(input.batch * input.length, 0) {
    if (in_.mask)
      for (std::size_t t = 0; t < forbidden_.size(); ++t)
        forbidden_[t] = in_.mask[t] ? 0 : ScoreTable::kForbidden;
    if (p_.narrow()) residual_.resize(in_.batch * in_.length * p_.stream);
    tabulate();
  }

  // y: (batch, length, hidden).
  void operator()(float* y) {
    const std::int64_t tiles = ceil_div(in_.length, tokens_);
    std::vector<Worker> workers(threads_, Worker(p_, tokens_));
    const auto tile = [&](std::int64_t item) {
      const std::int64_t start = item % tiles * tokens_;
      return Tile{item / tiles, start, std::min(tokens_, in_.length - start)};
    };
    parallel_for(in_.batch * tiles, threads_,
                 [&](std::int64_t item, int worker) { project(tile(item), workers[worker]); });
    parallel_for(projections_.parts(), threads_,
                 [&](std::int64_t part, int) { projections_.weave(part); });
    parallel_for(in_.batch * tiles, threads_,
                 [&](std::int64_t item, int worker) { finish(tile(item), y, workers[worker]); });
  }

 private:
  static constexpr std::int64_t kTile = Products::kTile;
  using AllProjections = Projections<Isa, typename Products::Operands>;

  // Tokens [start, start + count) of sequence b.
  struct Tile {
    std::int64_t b, start, count;
  };

  // What one thread works in.
  struct Worker {
    Worker(const Program& p, std::int64_t tokens)
        : linear(p),
          feed_forward(p),
          context(tokens * p.attention.heads * p.attention.head_dim),
          stream(tokens * p.stream),
          next(tokens * p.stream) {}
    Linear<Isa> linear;
    HeadAttention<Products> attention;
    FeedForward<Isa> feed_forward;
    typename AllProjections::Scratch scratch;
    std::vector<float> context, stream, next;
  };

  std::int64_t token(const Tile& tile) const { return tile.b * in_.length + tile.start; }

  // From the hidden states to queries, keys and values.
  void project(const Tile& tile, Worker& w) {
    const float* hidden = in_.x + token(tile) * p_.hidden;
    const float *queries_from = hidden, *values_from = hidden;
    if (p_.narrow()) {
      const BottleneckPart& b = p_.bottleneck;
      float* residual = residual_.data() + token(tile) * p_.stream;
      narrow(b.input, b.input_norm, hidden, tile.count, w, residual);
      queries_from = residual;
      if (b.query.in) {
        narrow(b.query, b.query_norm, hidden, tile.count, w, w.stream.data());
        queries_from = w.stream.data();
      } else {
        values_from = residual;
      }
    }
    if (stands_before(a_.norm)) {
      normalise(p_, a_.norm, queries_from, tile.count, w.next.data());
      queries_from = values_from = w.next.data();
    }
    projections_.project(tile.b, tile.start, tile.count, queries_from, values_from, w.linear,
                         w.scratch);
  }

  void narrow(const LinearPart& l, const NormPart& norm, const float* hidden, std::int64_t count,
              Worker& w, float* out) const {
    w.linear(l, hidden, count, out);
    normalise(p_, norm, out, count, out);
  }

  // Attention and all that follows it.
  void finish(const Tile& tile, float* y, Worker& w) const {
    const std::int64_t wide = a_.heads * a_.head_dim;
    const float* hidden = in_.x + token(tile) * p_.hidden;
    y += token(tile) * p_.hidden;
    for (std::int64_t t = 0; t < tile.count; t += kTile)
      for (std::int64_t h = 0; h < a_.heads; ++h)
        w.attention(head(tile.b, h), tables_.empty() ? nullptr : &tables_[h],
                    projections_.queries(tile.b, h, tile.start + t), tile.start + t,
                    std::min(kTile, tile.count - t),
                    w.context.data() + t * wide + h * a_.head_dim, wide);
    const float* residual = p_.narrow() ? residual_.data() + token(tile) * p_.stream : hidden;
    w.linear(a_.output, w.context.data(), tile.count, w.stream.data());
    add_residual(p_, a_.norm, residual, tile.count, p_.stream, w.stream.data());

    const auto* networks = p_.at<FeedForwardPart>(p_.feed_forward);
    for (std::int64_t i = 0; i < p_.feed_forward.count; ++i) {
      const bool last = i == p_.feed_forward.count - 1 && !p_.narrow();
      w.feed_forward(networks[i], w.stream.data(), tile.count, w.linear, last ? y : w.next.data());
      if (!last) std::swap(w.stream, w.next);
    }
    if (p_.narrow()) {
      const BottleneckPart& b = p_.bottleneck;
      w.linear(b.output, w.stream.data(), tile.count, y);
      add_residual(p_, b.output_norm, hidden, tile.count, p_.hidden, y);
    }
  }

  Head head(std::int64_t b, std::int64_t h) const {
    const std::int64_t dims = a_.head_dim;
    const auto number = [&](const Section& s) { return s.count ? p_.at<float>(s)[h] : 0.0f; };
    Head view{};
    view.length = in_.length;
    view.head_dim = dims;
    view.bits = static_cast<int>(a_.bits);
    view.key_value_bits = static_cast<int>(a_.key_value_bits);
    projections_.show(b, h, view);
    view.forbidden = forbidden_.data() + b * in_.length;
    view.window = a_.window;
    view.score_scale = number(a_.score_scale);
    view.position_keys = position_keys_.of(h);
    view.position_queries = position_queries_.of(h);
    view.position_key_scale = number(a_.position_key_scale);
    view.position_query_scale = number(a_.position_query_scale);
    view.score_rank = a_.score_rank;
    view.bias =
        in_.bias ? in_.bias + h * (2 * in_.length - 1) + in_.length - 1 : nullptr;
    view.boolean = a_.boolean != 0;
    view.probability_step = number(a_.probability_step);
    view.probability_shift = number(a_.probability_shift);
    view.value_scale = p_.at<float>(a_.value_scale) + h * dims;
    view.context_bias = p_.at<float>(a_.context_bias) + h * dims;
    view.context_rank = a_.context_rank;
    view.context_right = p_.at<float>(a_.context_right) + h * dims * a_.context_rank;
    return view;
  }

  // Tables of all heads, where every one can be served by them.
  void tabulate() {
    for (std::int64_t h = 0; h < a_.heads; ++h) {
      const Head view = head(0, h);
      if (!ScoreTable::serves(view)) return tables_.clear();
      tables_.emplace_back(view);
    }
  }

  const Program& p_;
  const AttentionPart& a_;
  const Input& in_;
  const std::int64_t tokens_;  // of an item of work
  const int threads_;
  AllProjections projections_;
  const PositionRows position_keys_, position_queries_;
  std::vector<std::uint16_t> forbidden_;
  std::vector<float> residual_;  // the narrow residual stream of a bottleneck
  std::vector<ScoreTable> tables_;
};

}  // namespace
}  // namespace bipft
