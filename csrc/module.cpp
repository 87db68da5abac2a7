// The Python module: arrays in and out through DLPack or the buffer protocol, no torch needed.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "compile.h"
#include "path.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
// Hidden states.
using Cube = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Steps = nb::ndarray<const std::uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Decoded = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Any = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// Owned by Python, aligned as programs must be.
nb::ndarray<std::uint8_t, nb::numpy> to_bytes(const std::vector<std::uint8_t>& bytes) {
  auto* data =
      static_cast<std::uint8_t*>(::operator new(bytes.size() + 1, std::align_val_t(64)));
  std::copy(bytes.begin(), bytes.end(), data);
  nb::capsule owner(data, [](void* p) noexcept { ::operator delete(p, std::align_val_t(64)); });
  return {data, {bytes.size()}, owner};
}

void require(bool fine, const char* what) {
  if (!fine) throw std::invalid_argument(what);
}

// Facts are numbers and words.
bipft::Source read_source(const nb::dict& arrays, const nb::dict& facts) {
  bipft::Source source;
  for (auto [key, value] : arrays) {
    const auto array = nb::cast<Any>(value);
    source.arrays[nb::cast<std::string>(key)] = {
        array.data(), static_cast<std::int64_t>(array.size()), array.dtype().bits / 8};
  }
  for (auto [key, value] : facts) {
    const auto name = nb::cast<std::string>(key);
    if (nb::isinstance<nb::str>(value))
      source.words[name] = nb::cast<std::string>(value);
    else
      source.numbers[name] = nb::cast<double>(value);
  }
  return source;
}

nb::ndarray<std::uint8_t, nb::numpy> compile_block(const nb::dict& arrays, const nb::dict& facts,
                                                   const std::string& path) {
  auto program = to_bytes(
      bipft::compile_block(read_source(arrays, facts), bipft::path_by_name(path.c_str())));
  // What is not consistent shall not be found out when it runs.
  bipft::Program::view(program.data(), static_cast<std::int64_t>(program.size()));
  return program;
}

nb::ndarray<std::uint8_t, nb::numpy> compile_linear(const nb::dict& arrays, const nb::dict& facts,
                                                    const std::string& path) {
  auto program = to_bytes(
      bipft::compile_linear(read_source(arrays, facts), bipft::path_by_name(path.c_str())));
  bipft::LinearProgram::view(program.data(), static_cast<std::int64_t>(program.size()));
  return program;
}

void binary_linear(const Bytes& linear, const Matrix& x, Decoded y, int threads) {
  const auto& program =
      bipft::LinearProgram::view(linear.data(), static_cast<std::int64_t>(linear.size()));
  require(static_cast<std::int64_t>(x.shape(1)) == program.linear.in,
          "the input has another width than the linear layer");
  require(x.shape(0) == y.shape(0) &&
              static_cast<std::int64_t>(y.shape(1)) == program.linear.out,
          "the output has another shape");
  const bipft::Path& path = bipft::path_by_number(program.path);
  nb::gil_scoped_release released;
  path.binary_linear(program, x.data(), static_cast<std::int64_t>(x.shape(0)), y.data(),
                     threads < 1 ? 1 : threads);
}

// Cosines and sines, bias and offsets are what the block makes necessary, and no more than that.
void check_positions(const bipft::Program& program, const bipft::Input& input,
                     const std::optional<Matrix>& cos, const std::optional<Matrix>& sin,
                     const std::optional<Matrix>& bias, const std::optional<Counts>& offsets) {
  const bipft::AttentionPart& a = program.attention;
  const auto is = [](std::size_t size, std::int64_t expected) {
    return static_cast<std::int64_t>(size) == expected;
  };
  for (const auto* angles : {&cos, &sin})
    if (angles->has_value())
      require(is((*angles)->shape(0), input.length) && is((*angles)->shape(1), a.head_dim),
              "cosines and sines must be (length, head_dim)");
  require(a.rotary == bipft::Pairs::kNone || (cos && sin),
          "the block has rotary positions: it needs cosines and sines");
  if (bias)
    require(is(bias->shape(0), a.heads) && is(bias->shape(1), 2 * input.length - 1),
            "the bias must be (heads, 2 length - 1)");
  require(!a.positions || offsets, "the block has tables of positions: it needs offsets");
  if (offsets && a.positions) {
    require(is(offsets->size(), 2 * input.length - 1), "offsets must be (2 length - 1)");
    for (std::size_t i = 0; i < offsets->size(); ++i)
      if (input.offsets[i] < 0 || input.offsets[i] >= a.positions)
        throw std::out_of_range("an offset is beyond the tables of positions");
  }
}

void encoder_block(const Bytes& block, const Cube& x, const std::optional<Rows>& mask,
                   const std::optional<Matrix>& bias, const std::optional<Matrix>& cos,
                   const std::optional<Matrix>& sin, const std::optional<Counts>& offsets,
                   Output y, int threads) {
  const auto& program =
      bipft::Program::view(block.data(), static_cast<std::int64_t>(block.size()));
  const bipft::Input input{x.data(),
                           mask ? mask->data() : nullptr,
                           bias ? bias->data() : nullptr,
                           cos ? cos->data() : nullptr,
                           sin ? sin->data() : nullptr,
                           offsets ? offsets->data() : nullptr,
                           static_cast<std::int64_t>(x.shape(0)),
                           static_cast<std::int64_t>(x.shape(1))};
  require(static_cast<std::int64_t>(x.shape(2)) == program.hidden,
          "the hidden states have another width than the block");
  require(input.length <= bipft::kWidest, "a sequence is longer than 65534 tokens");
  for (int i = 0; i < 3; ++i)
    require(x.shape(i) == y.shape(i), "the output has another shape");
  require(!mask || (mask->shape(0) == x.shape(0) && mask->shape(1) == x.shape(1)),
          "the mask has another shape than the hidden states");
  if (!x.size()) return;
  check_positions(program, input, cos, sin, bias, offsets);
  const bipft::Path& path = bipft::path_by_number(program.path);
  nb::gil_scoped_release released;
  path.block(program, input, y.data(), threads < 1 ? 1 : threads);
}

nb::ndarray<std::uint8_t, nb::numpy> interleave(const Rows& bits, std::int64_t in,
                                                const std::string& path) {
  const bipft::Path& chosen = bipft::path_by_name(path.c_str());
  const auto out = static_cast<std::int64_t>(bits.shape(0));
  if (in < 1 || in > bipft::kWidest || static_cast<std::int64_t>(bits.shape(1)) != (in + 7) / 8)
    throw std::invalid_argument("rows have another number of bytes than their bits need");
  std::vector<std::uint8_t> woven(bipft::interleaved_bytes(chosen.layout, in, out));
  bipft::interleave(chosen.layout, bits.data(), (in + 7) / 8, in, out, woven.data());
  return to_bytes(woven);
}

void binary_product(const Rows& activations, const Bytes& weights, std::int64_t in,
                    nb::ndarray<std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> result,
                    const std::string& path, int threads) {
  const bipft::Path& chosen = bipft::path_by_name(path.c_str());
  const auto count = static_cast<std::int64_t>(activations.shape(0));
  const auto out = static_cast<std::int64_t>(result.shape(1));
  if (in < 1 || in > bipft::kWidest || static_cast<std::int64_t>(result.shape(0)) != count ||
      static_cast<std::int64_t>(activations.shape(1)) != bipft::row_bytes(in) ||
      static_cast<std::int64_t>(weights.size()) !=
          bipft::interleaved_bytes(chosen.layout, in, out))
    throw std::invalid_argument("the shapes of activations, weights and result do not match");
  nb::gil_scoped_release released;
  if (count && out)
    chosen.product(weights.data(), in, out, activations.data(), count, result.data(),
                   threads < 1 ? 1 : threads);
}

bipft::Table table(const Rows& packed, const Steps& steps, int bits, std::int64_t columns) {
  const auto rows = static_cast<std::int64_t>(packed.shape(0));
  require(bits == 1 || bits == 4 || bits == 8, "rows have 1, 4 or 8 bits a number");
  require(columns >= 1 && static_cast<std::int64_t>(packed.shape(1)) ==
                              bipft::ceil_div(columns * bits, 8),
          "rows have another number of bytes than their numbers need");
  require(static_cast<std::int64_t>(steps.size()) == rows, "every row needs a step");
  return {packed.data(), steps.data(), rows, columns, bits};
}

void rows(const Ids& ids, const Rows& packed, const Steps& steps, int bits, Decoded out,
          const std::string& path, int threads) {
  const auto source = table(packed, steps, bits, static_cast<std::int64_t>(out.shape(1)));
  require(out.shape(0) == ids.size(), "every id needs a row of the result");
  const bipft::Path& chosen = bipft::path_by_name(path.c_str());
  nb::gil_scoped_release released;
  chosen.rows(source, ids.data(), static_cast<std::int64_t>(ids.size()), out.data(), threads);
}

void words(const Ids& ids, const Rows& frequent, const Steps& frequent_steps, const Rows& books,
           const Steps& book_steps, const Rows& codes, const Bytes& is_frequent,
           const Counts& before, int frequent_bits, int book_bits, std::int64_t part, Decoded out,
           const std::string& path, int threads) {
  const auto columns = static_cast<std::int64_t>(out.shape(1));
  const bipft::Words source{table(frequent, frequent_steps, frequent_bits, columns),
                            table(books, book_steps, book_bits, part),
                            codes.data(),
                            is_frequent.data(),
                            before.data(),
                            static_cast<std::int64_t>(codes.shape(0)),
                            static_cast<std::int64_t>(codes.shape(1))};
  const std::int64_t bytes = bipft::ceil_div(source.frequent.rows + source.rare, 8);
  require(source.parts == bipft::ceil_div(columns, part) &&
              source.books.rows == source.parts * bipft::Words::kCentroids,
          "the parts of words, their codes and their centroids do not match");
  require(static_cast<std::int64_t>(is_frequent.size()) == bytes &&
              static_cast<std::int64_t>(before.size()) == bytes,
          "every eight words need a byte of flags and a count");
  require(out.shape(0) == ids.size(), "every id needs a row of the result");
  const bipft::Path& chosen = bipft::path_by_name(path.c_str());
  nb::gil_scoped_release released;
  chosen.words(source, ids.data(), static_cast<std::int64_t>(ids.size()), out.data(), threads);
}

void linear(const Matrix& x, const Rows& packed, const Steps& steps,
            const std::optional<Vector>& bias, int bits, Decoded y, const std::string& path,
            int threads) {
  const auto source = table(packed, steps, bits, static_cast<std::int64_t>(x.shape(1)));
  require(y.shape(0) == x.shape(0) && y.shape(1) == packed.shape(0) &&
              (!bias || bias->size() == packed.shape(0)),
          "the shapes of inputs, weights, bias and result do not match");
  const bipft::Path& chosen = bipft::path_by_name(path.c_str());
  nb::gil_scoped_release released;
  chosen.linear(source, bias ? bias->data() : nullptr, x.data(),
                static_cast<std::int64_t>(x.shape(0)), y.data(), threads);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "1-bit kernels: XOR and popcount, chosen for this processor.";
  m.def("supported_paths", [] {
    std::vector<std::string> names;
    for (const bipft::Path* path : bipft::supported_paths()) names.emplace_back(path->name);
    return names;
  });
  m.def(
      "register_rate",
      [](const std::string& path, int threads) {
        const bipft::Path& chosen = bipft::path_by_name(path.c_str());
        nb::gil_scoped_release released;
        return bipft::register_rate(chosen, threads < 1 ? 1 : threads);
      },
      "path"_a, "threads"_a);
  // An array of another type must not be converted: results would be written to the copy.
  const auto as_is = [](const char* name) { return nb::arg(name).noconvert(); };
  m.def("interleave", &interleave, as_is("bits"), "in_features"_a, "path"_a);
  m.def("binary_product", &binary_product, as_is("activations"), as_is("weights"), "in_features"_a,
        as_is("result"), "path"_a, "threads"_a);
  m.def("rows", &rows, as_is("ids"), as_is("packed"), as_is("steps"), "bits"_a, as_is("result"),
        "path"_a, "threads"_a);
  m.def("words", &words, as_is("ids"), as_is("frequent"), as_is("frequent_steps"), as_is("books"),
        as_is("book_steps"), as_is("codes"), as_is("is_frequent"), as_is("before"),
        "frequent_bits"_a, "book_bits"_a, "part"_a, as_is("result"), "path"_a, "threads"_a);
  m.def("linear", &linear, as_is("x"), as_is("packed"), as_is("steps"), as_is("bias").none(),
        "bits"_a, as_is("result"), "path"_a, "threads"_a);
  m.attr("WIDEST") = bipft::kWidest;
  m.def("activation_names", &bipft::activation_names);
  m.def("compile_block", &compile_block, "arrays"_a, "facts"_a, "path"_a);
  m.def("compile_linear", &compile_linear, "arrays"_a, "facts"_a, "path"_a);
  m.def("binary_linear", &binary_linear, as_is("linear"), as_is("x"), as_is("y"), "threads"_a);
  m.def("encoder_block", &encoder_block, as_is("block"), as_is("x"), as_is("mask").none(),
        as_is("bias").none(), as_is("cos").none(), as_is("sin").none(), as_is("offsets").none(),
        as_is("y"), "threads"_a);
}
