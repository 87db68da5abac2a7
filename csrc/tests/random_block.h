// Random blocks of any shape, and what they are called with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "compile.h"
#include "testing.h"

namespace testing {

using namespace bipft;

inline const std::string kUnknownActivation = "one that only intervals know";

enum Positions { kNoPositions, kBias, kHalvesTurn, kNeighboursTurn, kDisentangled, kPositions };

struct Shape {
  int heads = 2, key_value_heads = 2, head_dim = 24, inner = 40, hidden = 48, stream = 48;
  int bits = 1, key_value_bits = 1, weight_bits = 1, rank = 0, networks = 1, window = -1;
  int batch = 1, length = 9;
  const char* norm = "layer";  // or rms, affine, and none
  Positions positions = kNoPositions;
  bool first = false, gated = false, boolean = false, folded = false, masked = false;

  bool narrow() const { return stream != hidden; }
  std::string text() const {
    std::string found;
    for (const auto& [name, value] : std::map<std::string, int>{
             {"heads", heads}, {"key_value_heads", key_value_heads}, {"head_dim", head_dim},
             {"inner", inner}, {"hidden", hidden}, {"stream", stream}, {"bits", bits},
             {"key_value_bits", key_value_bits}, {"weight_bits", weight_bits}, {"rank", rank}, {"networks", networks},
             {"window", window}, {"batch", batch}, {"length", length}, {"positions", positions},
             {"first", first}, {"gated", gated}, {"boolean", boolean}, {"folded", folded},
             {"masked", masked}})
      found += name + " " + std::to_string(value) + ", ";
    return found + norm;
  }
};

// Owns what a Source borrows.
class RandomBlock {
 public:
  explicit RandomBlock(const Shape& s) : shape_(s) {
    number("hidden", s.hidden);
    attention();
    for (int i = 0; i < s.networks; ++i) feed_forward("feed_forward." + std::to_string(i) + ".");
    if (s.narrow()) bottleneck();
  }
  RandomBlock(const RandomBlock&) = delete;

  Source source;

 private:
  void attention() {
    const Shape& s = shape_;
    const int wide = s.heads * s.head_dim, shared = s.key_value_heads * s.head_dim;
    for (const auto& [name, value] : std::map<std::string, int>{
             {"output_width", s.stream}, {"heads", s.heads}, {"head_dim", s.head_dim},
             {"key_value_heads", s.key_value_heads}, {"core.bits", s.bits},
             {"core.key_value_bits", s.key_value_bits}, {"core.boolean", s.boolean}})
      number("attention." + name, value);
    if (s.window >= 0) number("attention.window", s.window);
    const bool rotary = s.positions == kHalvesTurn || s.positions == kNeighboursTurn;
    if (rotary) {
      word("attention.rotary.pairs", s.positions == kHalvesTurn ? "halves" : "neighbours");
      number("attention.rotary.values", s.rank % 2);
    }
    linear("attention.query", s.stream, wide, s.folded);
    linear("attention.key", s.stream, shared, s.folded);
    linear("attention.value", s.narrow() ? s.hidden : s.stream, shared, s.folded);
    linear("attention.output", wide, s.stream, false);
    norm("attention.", "attention.norm", s.stream);
    const std::string core = "attention.core.";
    for (const char* name : {"query_shift", "value_scale", "context_bias"})
      floats(core + name, wide, 0.3f);
    for (const char* name : {"key_shift", "value_shift"}) floats(core + name, shared, 0.3f);
    for (const char* name : {"query_clip", "score_scale", "probability_scale"})
      floats(core + name, s.heads, 0.1f, true);
    for (const char* name : {"key_clip", "value_clip"})
      floats(core + name, s.key_value_heads, 0.1f, true);
    if (s.bits == 2) floats(core + "probability_shift", s.heads, 0.02f);
    if (s.rank)
      for (const char* name : {"score_estimator.left", "score_estimator.right",
                               "context_estimator.left", "context_estimator.right"})
        floats(core + name, wide * std::min(s.rank, s.head_dim), 0.1f);
    if (s.positions == kDisentangled) {
      number("attention.relative.span", 5);
      for (const char* name : {"position_key", "position_query"}) {
        bits(core + name, s.heads * 10 * ceil_div(s.head_dim, 8));
        floats(core + name + "_scale", s.heads, 0.1f, true);
      }
    }
  }

  void feed_forward(const std::string& name) {
    const Shape& s = shape_;
    number(name + "inner", s.inner);
    number(name + "gated", s.gated);
    word(name + "activation", s.folded && !s.gated ? kUnknownActivation : "gelu");
    linear(name + "up", s.stream, s.inner, s.folded && !s.gated);
    if (s.gated) linear(name + "gate", s.stream, s.inner, false);
    linear(name + "down", s.inner, s.stream, false);
    norm(name, name + "norm", s.stream);
  }

  void bottleneck() {
    const Shape& s = shape_;
    number("bottleneck.narrow_values", 0);
    linear("bottleneck.input", s.hidden, s.stream, false);
    linear("bottleneck.query", s.hidden, s.stream, false);
    linear("bottleneck.output", s.stream, s.hidden, false);
    for (const char* name : {"input_norm", "query_norm", "output_norm"}) {
      const std::string path = std::string("bottleneck.") + name;
      const int width = std::strcmp(name, "output_norm") ? s.stream : s.hidden;
      // Both norms of the input are described once.
      if (std::strcmp(name, "query_norm")) {
        word(path + ".kind", "affine");
        number(path + ".width", width);
        number(path + ".eps", 0);
      }
      floats(path + ".weight", width, 1.0f);
      floats(path + ".bias", width, 0.1f);
    }
  }

  void norm(const std::string& half, const std::string& name, int width) {
    number(half + "norm_first", shape_.first && !shape_.narrow());
    const std::string kind = shape_.norm;
    if (kind == "none") return;
    word(name + ".kind", kind);
    number(name + ".width", width);
    number(name + ".eps", 1e-12);
    floats(name + ".weight", width, 1.0f);
    if (kind != "rms") floats(name + ".bias", width, 0.1f);
  }

  void linear(const std::string& name, int in, int out, bool folded) {
    number(name + ".inputs", in);
    number(name + ".outputs", out);
    number(name + ".bits", shape_.bits);
    number(name + ".weight_bits", shape_.weight_bits);
    const char* magnitudes[] = {"none", "rms", "max"};
    source.words[name + ".dynamic_scale"] = shape_.folded ? "none" : magnitudes[(in + out) % 3];
    bits(name + ".weight", shape_.weight_bits * out * ceil_div(in, 8));
    floats(name + ".shift", in, 0.1f);
    floats(name + ".activation_scale", 1, 0.5f, true);
    if (shape_.rank) {
      floats(name + ".estimator.down", shape_.rank * in, 0.1f);
      floats(name + ".estimator.up", shape_.rank * out, 0.1f);
    }
    if (folded) {
      const int most = in * ((1 << shape_.weight_bits) - 1);
      intervals(name + ".low", out, 0, most);
      intervals(name + ".range", out, 0, most);
      intervals(name + ".flip", out, 0, 1);
    } else {
      floats(name + ".weight_scale", out, 1 / std::sqrt(static_cast<float>(in)));
      floats(name + ".bias", out, 0.1f);
    }
  }

  void number(const std::string& name, double value) { source.numbers[name] = value; }
  void word(const std::string& name, const std::string& value) { source.words[name] = value; }
  void floats(const std::string& name, std::int64_t count, float scale, bool positive = false) {
    auto& values = floats_[name] = normal(count, scale);
    if (positive)
      for (float& value : values) value = std::fabs(value) + 0.05f;
    source.arrays[name] = {values.data(), count, 4};
  }
  void bits(const std::string& name, std::int64_t count) {
    auto& values = bytes_[name] = random_bytes(count);
    source.arrays[name] = {values.data(), count, 1};
  }
  void intervals(const std::string& name, std::int64_t count, int least, int most) {
    auto& values = intervals_[name];
    for (std::int64_t i = 0; i < count; ++i)
      values.push_back(static_cast<std::uint16_t>(between(least, most) * (most == 1 ? 65535 : 1)));
    source.arrays[name] = {values.data(), count, 2};
  }

  const Shape shape_;
  std::map<std::string, std::vector<float>> floats_;
  std::map<std::string, std::vector<std::uint8_t>> bytes_;
  std::map<std::string, std::vector<std::uint16_t>> intervals_;
};

// Owns what an Input borrows.
struct RandomInput {
  explicit RandomInput(const Shape& s)
      : x(normal(static_cast<std::int64_t>(s.batch) * s.length * s.hidden, 1.0f)),
        mask(s.batch * s.length, 1),
        bias(normal(static_cast<std::int64_t>(s.heads) * s.length * s.length, 1.0f)),
        cos(s.length * s.head_dim),
        sin(s.length * s.head_dim),
        offsets(2 * s.length - 1) {
    if (s.masked)
      for (auto& seen : mask) seen = static_cast<std::uint8_t>(between(0, 3) != 0);
    const auto angles = normal(s.length * s.head_dim, 3.0f);
    for (std::size_t i = 0; i < angles.size(); ++i) {
      cos[i] = std::cos(angles[i]);
      sin[i] = std::sin(angles[i]);
    }
    for (auto& offset : offsets) offset = between(0, 9);
    input = {x.data(), s.masked ? mask.data() : nullptr,
             s.positions == kBias ? bias.data() : nullptr, cos.data(), sin.data(),
             offsets.data(), s.batch, s.length};
  }
  RandomInput(const RandomInput&) = delete;

  std::vector<float> x;
  std::vector<std::uint8_t> mask;
  std::vector<float> bias, cos, sin;
  std::vector<std::int32_t> offsets;
  Input input;
};

}  // namespace testing
