#include "compile.h"

#include <cstring>
#include <stdexcept>

namespace bipft {
namespace {

constexpr const char* kNames[kKinds] = {"query",            "key",    "value",
                                        "attention_output", "ffn_up", "ffn_down"};

class Compiler {
 public:
  Compiler(const Source& source, const Path& path)
      : source_(source), path_(path), bytes_(round_up(sizeof(Program), 64)) {}

  std::vector<std::uint8_t> run() {
    Program p{};
    p.magic = Program::kMagic;
    p.path = path_number(path_);
    p.hidden = whole("hidden", 1, 65535);
    p.heads = whole("heads", 1, 65535);
    p.head_dim = whole("head_dim", 1, 65535);
    p.ffn = whole("ffn", 1, 65535);
    p.bits = whole("bits", 1, 8);
    p.key_value_bits = whole("key_value_bits", 1, 8);
    p.activation = static_cast<Activation>(whole("activation", kGelu, kFoldedOnly));
    // The context goes through working memory that is as wide as the hidden state.
    if (p.heads * p.head_dim != p.hidden)
      throw std::invalid_argument("heads times head_dim must be the width of the hidden state");
    for (int kind = 0; kind < kKinds; ++kind)
      p.linear[kind] = linear(kNames[kind], kind == kFfnDown ? p.ffn : p.hidden,
                              kind == kFfnUp ? p.ffn : p.hidden);
    if (p.activation == kFoldedOnly && !p.linear[kFfnUp].folded)
      throw std::invalid_argument("this activation can only be folded into intervals");
    p.attention = attention(p.heads, p.head_dim);
    for (int i = 0; i < 2; ++i) {
      const std::string name = i ? "output_norm." : "attention_norm.";
      p.norm[i] = {floats(name + "weight", p.hidden), floats(name + "bias", p.hidden),
                   number(name + "eps")};
    }
    p.bytes = static_cast<std::int64_t>(bytes_.size());
    std::memcpy(bytes_.data(), &p, sizeof p);
    return std::move(bytes_);
  }

 private:
  double number(const std::string& name) const {
    const auto found = source_.numbers.find(name);
    if (found == source_.numbers.end()) throw std::invalid_argument("missing number " + name);
    return found->second;
  }

  std::int64_t whole(const std::string& name, std::int64_t least, std::int64_t most) const {
    const double value = number(name);
    if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most)))
      throw std::invalid_argument(name + " is out of range");
    return static_cast<std::int64_t>(value);
  }

  const Array& array(const std::string& name, std::int64_t count, int bytes_per_entry) const {
    const auto found = source_.arrays.find(name);
    if (found == source_.arrays.end()) throw std::invalid_argument("missing array " + name);
    if (found->second.count != count || found->second.bytes_per_entry != bytes_per_entry)
      throw std::invalid_argument("array " + name + " has another size than expected");
    return found->second;
  }

  bool has(const std::string& name) const { return source_.arrays.count(name) != 0; }

  Section append(const void* data, std::int64_t size, std::int64_t count) {
    const auto offset = static_cast<std::int64_t>(bytes_.size());
    bytes_.resize(offset + round_up(size, 64));
    if (size) std::memcpy(bytes_.data() + offset, data, size);
    return {offset, count};
  }

  Section floats(const std::string& name, std::int64_t count) {
    return append(array(name, count, 4).data, count * 4, count);
  }

  // Intervals are read by eights: what pads them holds no popcount.
  Section interval(const std::string& name, std::int64_t count, std::uint16_t padding) {
    const auto* given = static_cast<const std::uint16_t*>(array(name, count, 2).data);
    std::vector<std::uint16_t> padded(given, given + count);
    padded.resize(round_up(count, 8), padding);
    return append(padded.data(), static_cast<std::int64_t>(padded.size()) * 2, count);
  }

  LinearSpec linear(const std::string& name, std::int64_t in, std::int64_t out) {
    LinearSpec l{};
    l.in = in;
    l.out = out;
    l.activation_scale = static_cast<float>(number(name + ".activation_scale"));
    const Array& packed = array(name + ".bits", out * ceil_div(in, 8), 1);
    std::vector<std::uint8_t> woven(interleaved_bytes(path_.layout, in, out));
    interleave(path_.layout, static_cast<const std::uint8_t*>(packed.data),
               ceil_div(in, 8), in, out, woven.data());
    l.weights = append(woven.data(), static_cast<std::int64_t>(woven.size()), out);
    l.shift = floats(name + ".shift", in);
    if (has(name + ".down")) {
      l.rank = whole(name + ".rank", 1, 65535);
      l.down = floats(name + ".down", l.rank * in);
      l.up = floats(name + ".up", l.rank * out);
    }
    if (has(name + ".low")) {
      l.folded = 1;
      l.low = interval(name + ".low", out, 65535);
      l.range = interval(name + ".range", out, 0);
      l.flip = interval(name + ".flip", out, 0);
    } else {
      l.scale = floats(name + ".scale", out);
      l.bias = floats(name + ".bias", out);
    }
    return l;
  }

  AttentionSpec attention(std::int64_t heads, std::int64_t head_dim) {
    AttentionSpec a{};
    const std::string name = "attention.";
    for (auto& [section, key] :
         {std::pair{&a.query_shift, "query_shift"}, std::pair{&a.key_shift, "key_shift"},
          std::pair{&a.value_shift, "value_shift"}, std::pair{&a.value_scale, "value_scale"},
          std::pair{&a.context_bias, "context_bias"}})
      *section = floats(name + key, heads * head_dim);
    for (auto& [section, key] :
         {std::pair{&a.query_clip, "query_clip"}, std::pair{&a.key_clip, "key_clip"},
          std::pair{&a.value_clip, "value_clip"}, std::pair{&a.score_scale, "score_scale"},
          std::pair{&a.probability_scale, "probability_scale"},
          std::pair{&a.probability_shift, "probability_shift"}})
      *section = floats(name + key, heads);
    a.boolean = whole(name + "boolean", 0, 1);
    if (has(name + "score_left")) {
      a.score_rank = whole(name + "score_rank", 1, head_dim);
      a.score_left = floats(name + "score_left", heads * head_dim * a.score_rank);
      a.score_right = floats(name + "score_right", heads * head_dim * a.score_rank);
    }
    if (has(name + "context_left")) {
      a.context_rank = whole(name + "context_rank", 1, head_dim);
      a.context_left = floats(name + "context_left", heads * head_dim * a.context_rank);
      a.context_right = floats(name + "context_right", heads * head_dim * a.context_rank);
    }
    return a;
  }

  const Source& source_;
  const Path& path_;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace

std::vector<std::uint8_t> compile_layer(const Source& source, const Path& path) {
  return Compiler(source, path).run();
}

}  // namespace bipft
