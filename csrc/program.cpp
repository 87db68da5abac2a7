#include "program.h"

#include <stdexcept>
#include <string>

#include "path.h"

namespace bipft {
namespace {

void require(bool fine, const char* what) {
  if (!fine)
    throw std::invalid_argument(std::string("the compiled block is not consistent: ") + what);
}

bool within(std::int64_t x, std::int64_t least, std::int64_t most) {
  return least <= x && x <= most;
}

bool is_code_width(std::int64_t bits) {
  return bits == 1 || bits == 2 || bits == 4 || bits == 8;
}

// Every width is checked before it is used, every array before it is read.
class PartChecker {
 protected:
  explicit PartChecker(const Header& header)
      : header_(header), path_(path_by_number(header.path)) {}

  template <class T>
  void section(const Section& s, std::int64_t count) const {
    // Counts are products of three widths at most: no product of them overflows.
    require(s.count == count && count >= 0 && count < (std::int64_t{1} << 52), "an array's size");
    const auto size = count * static_cast<std::int64_t>(sizeof(T));
    require(s.offset >= 0 && s.offset % 64 == 0 && s.offset <= header_.bytes &&
                size <= header_.bytes - s.offset,
            "an array's place");
  }
  void floats(const Section& s, std::int64_t count) const { section<float>(s, count); }

  void linear(const LinearPart& l, std::int64_t in, std::int64_t out) const {
    require(l.in == in && l.out == out && within(in, 1, kWidest) && within(out, 1, kWidest),
            "the width of a linear layer");
    require(is_code_width(l.bits), "the bits of activations");
    require(within(l.weight_bits, 1, kWeightBits), "the bits of weights");
    require(within(static_cast<std::int64_t>(l.magnitude),
                   static_cast<std::int64_t>(Magnitude::kNone),
                   static_cast<std::int64_t>(Magnitude::kMax)),
            "what scales the codes of a token");
    require(within(l.rank, 0, kWidest), "the rank of an estimator");
    weights(l);
    floats(l.shift, in);
    floats(l.down, l.rank * in);
    floats(l.up, l.rank * out);
    floats(l.scale, l.folded ? 0 : out);
    floats(l.bias, l.folded ? 0 : out);
    // One count decides: there is one plane of activations, and nothing is added to it.
    require(!l.folded || (l.bits == 1 && l.rank == 0 && l.magnitude == Magnitude::kNone &&
                          largest_sum(in, 1, l.weight_bits) <= kWidest),
            "a linear layer that cannot be folded");
    for (const Section* s : {&l.low, &l.range, &l.flip})
      section<std::uint16_t>(*s, l.folded ? round_up(out, 8) : 0);
  }

 private:
  void weights(const LinearPart& l) const {
    const bool int8 = l.kernel == Kernel::kInt8;
    require(int8 ? l.bits * l.weight_bits > 1 : l.kernel == Kernel::kPopcount,
            "the kernel of a linear layer");
    const std::int64_t rows = padded_rows(path_.layout, l.out);
    section<std::uint8_t>(l.weights,
                          int8 ? dot_bytes(path_.dot, l.in, l.out)
                               : l.weight_bits * interleaved_bytes(path_.layout, l.in, rows));
    section<std::int32_t>(l.correction, int8 ? l.out : 0);
  }

  const Header& header_;
  const Path& path_;
};

class LinearChecker : PartChecker {
 public:
  explicit LinearChecker(const LinearProgram& program)
      : PartChecker(program), linear_(program.linear) {}

  void run() const {
    linear(linear_, linear_.in, linear_.out);
    require(!linear_.folded, "a folded output");
  }

 private:
  const LinearPart& linear_;
};

class BlockChecker : PartChecker {
 public:
  explicit BlockChecker(const Program& program) : PartChecker(program), p_(program) {}

  void run() const {
    require(within(p_.tokens, 1, kTokens), "the tokens of a pass");
    require(within(p_.hidden, 1, kWidest) && within(p_.stream, 1, kWidest), "the width");
    require(p_.narrow() || p_.stream == p_.hidden, "the width of the residual stream");
    if (p_.narrow()) bottleneck(p_.bottleneck);
    attention(p_.attention);
    section<FeedForwardPart>(p_.feed_forward, p_.feed_forward.count);
    require(p_.feed_forward.count >= 1, "no feed-forward network");
    for (std::int64_t i = 0; i < p_.feed_forward.count; ++i)
      feed_forward(p_.at<FeedForwardPart>(p_.feed_forward)[i]);
  }

 private:
  void norm(const NormPart& n, std::int64_t width) const {
    if (n.kind == NormKind::kNone) return;
    require(n.kind == NormKind::kLayer || n.kind == NormKind::kRms || n.kind == NormKind::kAffine,
            "the kind of a norm");
    require(n.width == width, "the width of a norm");
    floats(n.weight, width);
    floats(n.bias, n.bias.count ? width : 0);
  }

  void attention(const AttentionPart& a) const {
    require(within(a.heads, 1, kWidest) && within(a.key_value_heads, 1, a.heads) &&
                a.heads % a.key_value_heads == 0 && within(a.head_dim, 1, kWidest),
            "the heads");
    require(is_code_width(a.bits) && is_code_width(a.key_value_bits), "the bits of attention");
    require(!a.boolean || a.bits == 1, "the bits of Bi-Attention");
    require(a.kernel == Kernel::kInt8 ? a.bits * a.key_value_bits > 1 && !a.positions &&
                                            a.head_dim <= kWidestHead
                                      : a.kernel == Kernel::kPopcount,
            "the kernel of attention");
    require(within(a.window, 0, kWidest), "the window");
    require(within(a.score_rank, 0, kWidest) && within(a.context_rank, 0, kWidest),
            "the rank of an estimator");
    require(a.rotary == Pairs::kNone || a.head_dim % 2 == 0, "pairs in a head of odd width");
    const std::int64_t wide = a.heads * a.head_dim, shared = a.key_value_heads * a.head_dim;
    // In a bottleneck, values may be projected from the hidden states themselves.
    const bool apart = p_.narrow() && p_.bottleneck.query.in;
    require(!apart || !a.norm.first, "a norm before a bottleneck's attention");
    linear(a.query, p_.stream, wide);
    linear(a.key, p_.stream, shared);
    linear(a.value, apart ? p_.hidden : p_.stream, shared);
    linear(a.output, wide, p_.stream);
    require(!a.query.folded || (a.bits == 1 && !a.score_rank), "queries that are folded");
    require(!a.key.folded || (a.key_value_bits == 1 && !a.score_rank), "keys that are folded");
    require(!a.value.folded || (a.key_value_bits == 1 && !a.context_rank),
            "values that are folded");
    require(a.rotary == Pairs::kNone ||
                !(a.query.folded || a.key.folded || (a.rotary_values && a.value.folded)),
            "folded before they turn");
    require(!a.output.folded, "a folded output");
    norm(a.norm, p_.stream);
    for (const Section* s : {&a.query_shift, &a.value_scale, &a.context_bias}) floats(*s, wide);
    for (const Section* s : {&a.key_shift, &a.value_shift}) floats(*s, shared);
    for (const Section* s :
         {&a.query_clip, &a.score_scale, &a.probability_step, &a.probability_shift})
      floats(*s, a.heads);
    for (const Section* s : {&a.key_clip, &a.value_clip}) floats(*s, a.key_value_heads);
    for (const Section* s : {&a.score_left, &a.score_right}) floats(*s, wide * a.score_rank);
    for (const Section* s : {&a.context_left, &a.context_right}) floats(*s, wide * a.context_rank);
    require(within(a.positions, 0, 2 * kWidest), "the rows of a table of positions");
    table(a, a.position_key, a.position_key_scale);
    table(a, a.position_query, a.position_query_scale);
  }

  void table(const AttentionPart& a, const Section& rows, const Section& scale) const {
    const bool there = rows.count != 0;
    section<std::uint8_t>(rows, there ? a.heads * a.positions * row_bytes(a.head_dim) : 0);
    floats(scale, there ? a.heads : 0);
  }

  void feed_forward(const FeedForwardPart& f) const {
    require(within(static_cast<std::int64_t>(f.activation),
                   static_cast<std::int64_t>(Activation::kOnlyFolded),
                   static_cast<std::int64_t>(Activation::kSilu)),
            "the activation function");
    require(f.activation != Activation::kOnlyFolded || f.up.folded,
            "an activation function that can only be folded");
    linear(f.up, p_.stream, f.up.out);
    if (f.gate.in) linear(f.gate, p_.stream, f.up.out);
    linear(f.down, f.up.out, p_.stream);
    require(!f.up.folded || (!f.gate.in && f.down.bits == 1 && f.down.rank == 0 &&
                             f.down.magnitude == Magnitude::kNone),
            "a feed-forward network that cannot be folded");
    require(!f.gate.folded && !f.down.folded, "a folded output");
    norm(f.norm, p_.stream);
  }

  void bottleneck(const BottleneckPart& b) const {
    linear(b.input, p_.hidden, p_.stream);
    if (b.query.in) linear(b.query, p_.hidden, p_.stream);
    linear(b.output, p_.stream, p_.hidden);
    require(!b.input.folded && !b.query.folded && !b.output.folded, "a folded output");
    norm(b.input_norm, p_.stream);
    norm(b.query_norm, p_.stream);
    norm(b.output_norm, p_.hidden);
  }

  const Program& p_;
};

template <class P>
const P& view_of(const std::uint8_t* data, std::int64_t size) {
  if (size < static_cast<std::int64_t>(sizeof(P)) ||
      reinterpret_cast<std::uintptr_t>(data) % 64 != 0)
    throw std::invalid_argument("the buffer is not a compiled block");
  const auto& program = *reinterpret_cast<const P*>(data);
  if (program.magic != P::kMagic || program.bytes != size)
    throw std::invalid_argument("the buffer is not a compiled block of this release");
  return program;
}

}  // namespace

const Program& Program::view(const std::uint8_t* data, std::int64_t size) {
  const auto& program = view_of<Program>(data, size);
  BlockChecker(program).run();
  return program;
}

const LinearProgram& LinearProgram::view(const std::uint8_t* data, std::int64_t size) {
  const auto& program = view_of<LinearProgram>(data, size);
  LinearChecker(program).run();
  return program;
}

}  // namespace bipft
