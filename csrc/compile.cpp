#include "compile.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "reader.h"

namespace bipft {
namespace {

const std::map<std::string, Activation>& activations() {
  static const std::map<std::string, Activation> known{
      {"gelu", Activation::kGelu},
      {"gelu_python", Activation::kGelu},
      {"gelu_new", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh},
      {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"quick_gelu", Activation::kQuickGelu},
      {"relu", Activation::kRelu},
      {"silu", Activation::kSilu},
      {"swish", Activation::kSilu},
  };
  return known;
}

class Compiler {
 public:
  Compiler(const Source& source, const Path& path, std::int64_t planes)
      : from_(source), path_(path), planes_(planes ? planes : path.dot.planes) {}

  std::vector<std::uint8_t> block() {
    Program p{};
    bytes_.resize(round_up(sizeof p, 64));
    p.hidden = from_.width("hidden");
    p.stream = from_.width("attention.output_width");
    p.attention = attention("attention.");
    if (from_.says("bottleneck.narrow_values")) p.bottleneck = bottleneck("bottleneck.");
    std::vector<FeedForwardPart> networks;
    for (std::string name = "feed_forward.0."; from_.says(name + "inner");
         name = "feed_forward." + std::to_string(networks.size()) + ".")
      networks.push_back(feed_forward(name));
    p.feed_forward = append(networks);
    p.tokens = tokens_;
    return finish(p);
  }

  std::vector<std::uint8_t> single() {
    LinearProgram p{};
    bytes_.resize(round_up(sizeof p, 64));
    p.linear = linear("linear");
    return finish(p);
  }

 private:
  template <class P>
  std::vector<std::uint8_t> finish(P& program) {
    from_.check_all_read();
    program.magic = P::kMagic;
    program.path = path_number(path_);
    program.bytes = static_cast<std::int64_t>(bytes_.size());
    std::memcpy(bytes_.data(), &program, sizeof program);
    return std::move(bytes_);
  }

  template <class T>
  Section append(const std::vector<T>& values) {
    const auto offset = static_cast<std::int64_t>(bytes_.size());
    const auto size = static_cast<std::int64_t>(values.size() * sizeof(T));
    bytes_.resize(offset + round_up(size, 64));
    if (size) std::memcpy(bytes_.data() + offset, values.data(), size);
    return {offset, static_cast<std::int64_t>(values.size())};
  }

  Section floats(const std::string& name, std::int64_t count) {
    const float* given = from_.array<float>(name, count);
    return append(std::vector<float>(given, given + count));
  }

  // From (groups, rows, columns) to (groups, columns, rows).
  Section transposed(const std::string& name, std::int64_t groups, std::int64_t rows,
                     std::int64_t columns) {
    const float* given = from_.array<float>(name, groups * rows * columns);
    std::vector<float> turned(groups * rows * columns);
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < columns; ++c)
          turned[(g * columns + c) * rows + r] = given[(g * rows + r) * columns + c];
    return append(turned);
  }

  // Intervals are read by eights: what pads them holds no popcount.
  Section interval(const std::string& name, std::int64_t count, std::uint16_t padding) {
    const auto* given = from_.array<std::uint16_t>(name, count);
    std::vector<std::uint16_t> padded(given, given + count);
    padded.resize(round_up(count, 8), padding);
    return append(padded);
  }

  LinearPart linear(const std::string& name) {
    LinearPart l{};
    l.in = from_.width(name + ".inputs");
    l.out = from_.width(name + ".outputs");
    l.bits = from_.whole(name + ".bits", 1, 8);
    l.weight_bits = from_.whole(name + ".weight_bits", 1, kWeightBits);
    const auto* planes = from_.array<std::uint8_t>(name + ".weight",
                                                   l.weight_bits * l.out * ceil_div(l.in, 8));
    if (l.bits * l.weight_bits >= planes_)
      weights_as_codes(l, planes);
    else
      weights_as_planes(l, planes);
    l.magnitude = from_.one_of<Magnitude>(
        name + ".dynamic_scale",
        {{"none", Magnitude::kNone}, {"rms", Magnitude::kRms}, {"max", Magnitude::kMax}});
    l.shift = floats(name + ".shift", l.in);
    const float step = *from_.array<float>(name + ".activation_scale", 1);
    l.activation_scale = static_cast<double>(step);
    if (from_.has(name + ".estimator.down")) {
      l.rank = from_.rows(name + ".estimator.down", l.in);
      l.down = floats(name + ".estimator.down", l.rank * l.in);
      l.up = transposed(name + ".estimator.up", 1, l.out, l.rank);
    }
    if (from_.has(name + ".low")) {
      l.folded = 1;
      l.low = interval(name + ".low", l.out, 65535);
      l.range = interval(name + ".range", l.out, 0);
      l.flip = interval(name + ".flip", l.out, 0);
    } else {
      const float* of_rows = from_.array<float>(name + ".weight_scale", l.out);
      std::vector<float> scale(of_rows, of_rows + l.out);
      for (float& value : scale) value *= step;
      l.scale = append(scale);
      l.bias = floats(name + ".bias", l.out);
    }
    return l;
  }

  void weights_as_planes(LinearPart& l, const std::uint8_t* planes) {
    const std::int64_t rows = padded_rows(path_.layout, l.out), bytes = ceil_div(l.in, 8);
    const std::int64_t size = interleaved_bytes(path_.layout, l.in, rows);
    std::vector<std::uint8_t> woven(l.weight_bits * size);
    for (std::int64_t p = 0; p < l.weight_bits; ++p) {
      std::vector<std::uint8_t> plane(rows * bytes);
      std::copy_n(planes + p * l.out * bytes, l.out * bytes, plane.data());
      interleave(path_.layout, plane.data(), bytes, l.in, rows, woven.data() + p * size);
    }
    l.weights = append(woven);
  }

  void weights_as_codes(LinearPart& l, const std::uint8_t* planes) {
    const Dot& dot = path_.dot;
    const std::int64_t bytes = ceil_div(l.in, 8);
    std::vector<std::uint8_t> woven(dot_bytes(dot, l.in, l.out));
    std::vector<std::int32_t> correction(l.out);
    // A code of activations is 2 (byte + offset) - (2^bits - 1).
    const auto constant = static_cast<std::int32_t>(2 * dot.offset - ((1 << l.bits) - 1));
    for (std::int64_t n = 0; n < l.out; ++n)
      for (std::int64_t k = 0; k < l.in; ++k) {
        std::int32_t code = 0;
        for (std::int64_t p = 0; p < l.weight_bits; ++p) {
          const int bit = planes[(p * l.out + n) * bytes + k / 8] >> (k % 8) & 1;
          code += (2 * bit - 1) * (1 << p);
        }
        woven[dot_place(dot, l.in, n, k)] = static_cast<std::uint8_t>(code);
        correction[n] += constant * code;
      }
    l.kernel = Kernel::kInt8;
    l.weights = append(woven);
    l.correction = append(correction);
    tokens_ = dot.tokens;
  }

  // `described`: where the description of this norm is, if not under its own name.
  NormPart norm(const std::string& name, const std::string& described) {
    NormPart n{};
    if (!from_.says(described + ".kind")) return n;
    n.kind = from_.one_of<NormKind>(
        described + ".kind",
        {{"layer", NormKind::kLayer}, {"rms", NormKind::kRms}, {"affine", NormKind::kAffine}});
    n.width = from_.width(described + ".width");
    n.eps = from_.number(described + ".eps");
    n.weight = floats(name + ".weight", n.width);
    if (from_.has(name + ".bias")) n.bias = floats(name + ".bias", n.width);
    return n;
  }

  AttentionPart attention(const std::string& name) {
    const std::string core = name + "core.";
    AttentionPart a{};
    a.heads = from_.width(name + "heads");
    a.key_value_heads = from_.width(name + "key_value_heads");
    a.head_dim = from_.width(name + "head_dim");
    a.bits = from_.whole(core + "bits", 1, 8);
    a.key_value_bits = from_.whole(core + "key_value_bits", 1, 8);
    a.boolean = from_.flag(core + "boolean");
    // No sequence is longer than the widest window.
    a.window = kWidest;
    if (from_.says(name + "window"))
      a.window = std::min(kWidest, from_.whole(name + "window", 0, std::int64_t{1} << 40));
    if (from_.says(name + "rotary.pairs")) {
      a.rotary = from_.one_of<Pairs>(
          name + "rotary.pairs", {{"halves", Pairs::kHalves}, {"neighbours", Pairs::kNeighbours}});
      a.rotary_values = from_.flag(name + "rotary.values");
    }
    a.query = linear(name + "query");
    a.key = linear(name + "key");
    a.value = linear(name + "value");
    a.output = linear(name + "output");
    a.norm = norm(name + "norm", name + "norm");
    a.norm.first = from_.flag(name + "norm_first");

    const std::int64_t wide = a.heads * a.head_dim, shared = a.key_value_heads * a.head_dim;
    a.query_shift = floats(core + "query_shift", wide);
    a.key_shift = floats(core + "key_shift", shared);
    a.value_shift = floats(core + "value_shift", shared);
    a.query_clip = floats(core + "query_clip", a.heads);
    a.key_clip = floats(core + "key_clip", a.key_value_heads);
    a.value_clip = floats(core + "value_clip", a.key_value_heads);
    a.score_scale = floats(core + "score_scale", a.heads);
    a.probability_step = floats(core + "probability_scale", a.heads);
    a.probability_shift = from_.has(core + "probability_shift")
                              ? floats(core + "probability_shift", a.heads)
                              : append(std::vector<float>(a.heads));
    a.value_scale = floats(core + "value_scale", wide);
    a.context_bias = floats(core + "context_bias", wide);
    const auto map = [&](const std::string& of, std::int64_t& rank) {
      rank = from_.rows(of, wide);
      return transposed(of, a.heads, a.head_dim, rank);
    };
    if (from_.has(core + "score_estimator.left")) {
      a.score_left = map(core + "score_estimator.left", a.score_rank);
      a.score_right = map(core + "score_estimator.right", a.score_rank);
    }
    if (from_.has(core + "context_estimator.left")) {
      a.context_left = map(core + "context_estimator.left", a.context_rank);
      a.context_right = map(core + "context_estimator.right", a.context_rank);
    }
    if (from_.says(name + "relative.span")) {
      a.positions = 2 * from_.width(name + "relative.span");
      for (auto& [rows, scale, key] :
           {std::tuple{&a.position_key, &a.position_key_scale, "position_key"},
            std::tuple{&a.position_query, &a.position_query_scale, "position_query"}})
        if (from_.has(core + key)) {
          *rows = table(core + key, a.heads * a.positions, a.head_dim);
          *scale = floats(core + key + "_scale", a.heads);
        }
    }
    if (as_bytes(a)) {
      a.kernel = Kernel::kInt8;
      tokens_ = path_.dot.tokens;
    }
    return a;
  }

  bool as_bytes(const AttentionPart& a) const {
    const std::int64_t halves = ceil_div(a.key_value_bits, path_.dot.weight_bits);
    return a.bits * a.key_value_bits >= halves * planes_ && !a.positions &&
           a.head_dim <= kWidestHead;
  }

  // Rows of signs as whole words; what lies beyond their last bit must not count.
  Section table(const std::string& name, std::int64_t rows, std::int64_t width) {
    const std::int64_t bytes = ceil_div(width, 8);
    const auto* given = from_.array<std::uint8_t>(name, rows * bytes);
    std::vector<std::uint8_t> padded(rows * row_bytes(width));
    for (std::int64_t r = 0; r < rows; ++r) {
      std::uint8_t* row = padded.data() + r * row_bytes(width);
      std::copy(given + r * bytes, given + (r + 1) * bytes, row);
      if (width % 8) row[bytes - 1] &= static_cast<std::uint8_t>((1 << (width % 8)) - 1);
    }
    return append(padded);
  }

  FeedForwardPart feed_forward(const std::string& name) {
    FeedForwardPart f{};
    f.up = linear(name + "up");
    if (f.up.out != from_.width(name + "inner")) refuse(name + "inner is not that of its linears");
    if (from_.flag(name + "gated")) f.gate = linear(name + "gate");
    f.down = linear(name + "down");
    const auto known = activations().find(from_.word(name + "activation"));
    f.activation = known == activations().end() ? Activation::kOnlyFolded : known->second;
    f.norm = norm(name + "norm", name + "norm");
    f.norm.first = from_.flag(name + "norm_first");
    return f;
  }

  BottleneckPart bottleneck(const std::string& name) {
    BottleneckPart b{};
    b.input = linear(name + "input");
    b.input_norm = norm(name + "input_norm", name + "input_norm");
    if (!from_.flag(name + "narrow_values")) {
      b.query = linear(name + "query");
      b.query_norm = norm(name + "query_norm", name + "input_norm");
    }
    b.output = linear(name + "output");
    b.output_norm = norm(name + "output_norm", name + "output_norm");
    return b;
  }

  Reader from_;
  const Path& path_;
  const std::int64_t planes_;
  std::vector<std::uint8_t> bytes_;
  std::int64_t tokens_ = 1;
};

}  // namespace

std::vector<std::string> activation_names() {
  std::vector<std::string> names;
  for (const auto& [name, activation] : activations()) names.push_back(name);
  return names;
}

std::vector<std::uint8_t> compile_block(const Source& source, const Path& path,
                                        std::int64_t planes) {
  return Compiler(source, path, planes).block();
}

std::vector<std::uint8_t> compile_linear(const Source& source, const Path& path) {
  return Compiler(source, path, 0).single();
}

}  // namespace bipft
