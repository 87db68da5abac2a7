// The kernels' own test, without Python: run it under sanitizers, under an emulator, or with a
// number of seconds to fuzz shapes. Prints what failed and exits with 1.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "compile.h"
#include "testing.h"

namespace {

using namespace bipft;
using namespace testing;

// Every path against one bit at a time.
void test_product(int in, int out, int count) {
  const auto weights = random_bytes(out * ceil_div(in, 8));
  std::vector<std::uint8_t> activations(count * row_bytes(in), 0);
  for (int t = 0; t < count; ++t)
    for (int k = 0; k < in; ++k)
      activations[t * row_bytes(in) + k / 8] |=
          static_cast<std::uint8_t>(between(0, 1) << (k % 8));
  std::vector<std::int32_t> expected(count * out);
  for (int t = 0; t < count; ++t)
    for (int n = 0; n < out; ++n) {
      int acc = 0;
      for (int k = 0; k < in; ++k) {
        const int a = activations[t * row_bytes(in) + k / 8] >> (k % 8) & 1;
        const int w = weights[n * ceil_div(in, 8) + k / 8] >> (k % 8) & 1;
        acc += a == w ? 1 : -1;
      }
      expected[t * out + n] = acc;
    }
  const std::string shape =
      std::to_string(count) + " x " + std::to_string(in) + " x " + std::to_string(out);
  for (const Path* path : supported_paths()) {
    std::vector<std::uint8_t> woven(interleaved_bytes(path->layout, in, out));
    interleave(path->layout, weights.data(), ceil_div(in, 8), in, out, woven.data());
    std::vector<std::int32_t> result(count * out, 12345);
    path->product(woven.data(), in, out, activations.data(), count, result.data(), between(1, 3));
    check(result == expected, "product", *path, shape);
  }
}

struct Shape {
  int heads, head_dim, ffn, bits, key_value_bits, batch, length, rank;
  bool folded, masked;
  std::string text() const {
    return "heads " + std::to_string(heads) + ", head_dim " + std::to_string(head_dim) + ", ffn " +
           std::to_string(ffn) + ", bits " + std::to_string(bits) + "/" +
           std::to_string(key_value_bits) + ", batch " + std::to_string(batch) + ", length " +
           std::to_string(length) + ", rank " + std::to_string(rank) +
           (folded ? ", folded" : "") + (masked ? ", masked" : "");
  }
};

// Owns what a Source borrows.
class RandomLayer {
 public:
  explicit RandomLayer(const Shape& s) {
    const int hidden = s.heads * s.head_dim;
    const struct { const char* name; int in, out; } linears[] = {
        {"query", hidden, hidden},  {"key", hidden, hidden}, {"value", hidden, hidden},
        {"attention_output", hidden, hidden}, {"ffn_up", hidden, s.ffn}, {"ffn_down", s.ffn, hidden}};
    for (const auto& l : linears) {
      const std::string name = l.name;
      bits(name + ".bits", l.out * ceil_div(l.in, 8));
      floats(name + ".shift", l.in, 0.1f);
      source.numbers[name + ".activation_scale"] = 0.7;
      if (s.rank) {
        source.numbers[name + ".rank"] = s.rank;
        floats(name + ".down", s.rank * l.in, 0.1f);
        floats(name + ".up", s.rank * l.out, 0.1f);
      }
      const bool first = name != "attention_output" && name != "ffn_down";
      if (s.folded && first) {
        words(name + ".low", l.out, 0, l.in);
        words(name + ".range", l.out, 0, l.in);
        words(name + ".flip", l.out, 0, 1);
      } else {
        floats(name + ".scale", l.out, 1 / std::sqrt(static_cast<float>(l.in)));
        floats(name + ".bias", l.out, 0.1f);
      }
    }
    for (const char* name :
         {"query_shift", "key_shift", "value_shift", "value_scale", "context_bias"})
      floats(std::string("attention.") + name, hidden, 0.3f);
    for (const char* name :
         {"query_clip", "key_clip", "value_clip", "score_scale", "probability_scale"})
      floats(std::string("attention.") + name, s.heads, 0.1f, true);
    floats("attention.probability_shift", s.heads, 0.02f);
    source.numbers["attention.boolean"] = s.bits == 1 && !s.folded;
    if (s.rank) {
      const int rank = std::min(s.rank, s.head_dim);
      source.numbers["attention.score_rank"] = source.numbers["attention.context_rank"] = rank;
      for (const char* name : {"score_left", "score_right", "context_left", "context_right"})
        floats(std::string("attention.") + name, hidden * rank, 0.1f);
    }
    for (const char* name : {"attention_norm", "output_norm"}) {
      floats(std::string(name) + ".weight", hidden, 1.0f);
      floats(std::string(name) + ".bias", hidden, 0.1f);
      source.numbers[std::string(name) + ".eps"] = 1e-12;
    }
    source.numbers["hidden"] = hidden;
    source.numbers["heads"] = s.heads;
    source.numbers["head_dim"] = s.head_dim;
    source.numbers["ffn"] = s.ffn;
    source.numbers["bits"] = s.bits;
    source.numbers["key_value_bits"] = s.key_value_bits;
    source.numbers["activation"] = kGelu;
  }
  RandomLayer(const RandomLayer&) = delete;

  Source source;

 private:
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
  void words(const std::string& name, std::int64_t count, int least, int most) {
    auto& values = words_[name];
    for (std::int64_t i = 0; i < count; ++i)
      values.push_back(static_cast<std::uint16_t>(between(least, most)));
    if (most == 1)
      for (auto& value : values) value = value ? 65535 : 0;
    source.arrays[name] = {values.data(), count, 2};
  }
  std::map<std::string, std::vector<float>> floats_;
  std::map<std::string, std::vector<std::uint8_t>> bytes_;
  std::map<std::string, std::vector<std::uint16_t>> words_;
};

// A program lies on a boundary of 64 bytes.
struct Aligned {
  explicit Aligned(const std::vector<std::uint8_t>& bytes)
      : storage(bytes.size() + 64), size(static_cast<std::int64_t>(bytes.size())) {
    data = storage.data() + (64 - reinterpret_cast<std::uintptr_t>(storage.data()) % 64) % 64;
    std::copy(bytes.begin(), bytes.end(), data);
  }
  std::vector<std::uint8_t> storage;
  std::uint8_t* data;
  std::int64_t size;
};

std::vector<float> run(const Path& path, const Source& source, const std::vector<float>& x,
                       const std::vector<std::uint8_t>& mask, const Shape& s, int threads) {
  const Aligned program(compile_layer(source, path));
  std::vector<float> y(x.size(), NAN);
  path.layer(Program::view(program.data, program.size), x.data(),
             s.masked ? mask.data() : nullptr, y.data(), s.batch, s.length, threads);
  return y;
}

// Any number of threads gives the same bits; paths agree but for rounding; padding is not read.
void test_layer(const Shape& s) {
  const RandomLayer layer(s);
  const int hidden = s.heads * s.head_dim, tokens = s.batch * s.length;
  auto x = normal(static_cast<std::int64_t>(tokens) * hidden, 1.0f);
  std::vector<std::uint8_t> mask(tokens, 1);
  if (s.masked)
    for (auto& seen : mask) seen = static_cast<std::uint8_t>(between(0, 3) != 0);
  std::vector<float> first;
  for (const Path* path : supported_paths()) {
    const auto y = run(*path, layer.source, x, mask, s, 1);
    check(y == run(*path, layer.source, x, mask, s, 3), "layer on three threads", *path, s.text());
    int far = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      if (!std::isfinite(y[i])) ++far;
      else if (!first.empty() && std::fabs(y[i] - first[i]) > 1e-3f * (1 + std::fabs(first[i]))) ++far;
    }
    // A number that lies on a threshold but for rounding may fall on its other side.
    check(far <= static_cast<int>(y.size() / 50 + 2 * hidden), "layer", *path, s.text());
    if (s.masked) {
      auto other = x;
      for (int t = 0; t < tokens; ++t)
        if (!mask[t])
          for (int k = 0; k < hidden; ++k) other[t * hidden + k] = 100.0f;
      const auto z = run(*path, layer.source, other, mask, s, 2);
      bool same = true;
      for (int t = 0; t < tokens; ++t)
        if (mask[t])
          same = same && !std::memcmp(&y[t * hidden], &z[t * hidden], hidden * sizeof(float));
      check(same, "padding", *path, s.text());
    }
    if (first.empty()) first = y;
  }
}

// Compiled from one array less, one array shorter or one number out of range: refused.
void test_refusals() {
  const RandomLayer layer({2, 8, 24, 1, 1, 1, 3, 2, true, false});
  const Path& path = *supported_paths().front();
  const auto refused = [&](const Source& source) {
    try {
      compile_layer(source, path);
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  check(!refused(layer.source), "a whole layer", path, "");
  for (const auto& [name, array] : layer.source.arrays) {
    Source shorter = layer.source;
    shorter.arrays[name].count -= 1;
    check(refused(shorter), "shorter array", path, name);
  }
  for (const auto& [name, value] : layer.source.numbers) {
    Source missing = layer.source;
    missing.numbers.erase(name);
    check(refused(missing), "missing number", path, name);
  }
  const auto bytes = compile_layer(layer.source, path);
  for (std::size_t size : {std::size_t{0}, std::size_t{8}, bytes.size() - 1}) {
    const Aligned cut(std::vector<std::uint8_t>(bytes.begin(), bytes.begin() + size));
    bool thrown = false;
    try {
      Program::view(cut.data, cut.size);
    } catch (const std::invalid_argument&) {
      thrown = true;
    }
    check(thrown, "truncated program", path, std::to_string(size));
  }
}

Shape random_shape() {
  const int widths[] = {1, 2, 4, 8};
  Shape s{between(1, 4), between(1, 70), between(1, 140), widths[between(0, 3)],
          widths[between(0, 3)], between(1, 3), between(1, 140), between(0, 2),
          false, between(0, 1) == 1};
  if (s.heads * s.head_dim < 2) s.rank = 0;
  s.rank = std::min({s.rank, s.head_dim, s.ffn});
  s.folded = s.bits == 1 && s.key_value_bits == 1 && s.rank == 0 && between(0, 1);
  return s;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0;
  for (int in : {1, 3, 8, 33, 63, 64, 65, 100, 248, 249, 384, 768, 3072})
    for (int out : {1, 7, 33, 65}) test_product(in, out, between(1, 9));
  for (int length : {1, 4, 5, 63, 64, 65, 130})
    for (int bits : {1, 2, 4, 8})
      for (int rank : {0, 2}) {
        test_layer({2, 24, 40, bits, 1, 2, length, rank, false, true});
        test_layer({2, 24, 40, bits, bits, 1, length, rank, bits == 1 && rank == 0, false});
      }
  test_layer({1, 70, 300, 1, 1, 1, 9, 0, true, true});
  test_tables(1, 1, 1);
  for (int columns : {3, 8, 17, 100, 768}) test_tables(between(1, 40), columns, between(1, 13));
  test_refusals();
  const auto start = std::chrono::steady_clock::now();
  long rounds = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
    test_product(between(1, 2000), between(1, 150), between(1, 20));
    test_layer(random_shape());
    test_tables(between(1, 40), between(1, 400), between(1, 40));
    ++rounds;
  }
  for (const Path* path : supported_paths()) std::printf("%s ", path->name);
  std::printf("tested, %ld random rounds, %d failures\n", rounds, failures);
  return failures != 0;
}
