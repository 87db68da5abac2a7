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
using Hidden = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
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

bipft::Source read_source(const nb::dict& arrays, const nb::dict& numbers) {
  bipft::Source source;
  for (auto [key, value] : arrays) {
    const auto array = nb::cast<Any>(value);
    source.arrays[nb::cast<std::string>(key)] = {
        array.data(), static_cast<std::int64_t>(array.size()), array.dtype().bits / 8};
  }
  for (auto [key, value] : numbers)
    source.numbers[nb::cast<std::string>(key)] = nb::cast<double>(value);
  return source;
}

nb::ndarray<std::uint8_t, nb::numpy> compile_layer(const nb::dict& arrays, const nb::dict& numbers,
                                                   const std::string& path) {
  return to_bytes(
      bipft::compile_layer(read_source(arrays, numbers), bipft::path_by_name(path.c_str())));
}

const bipft::Path& path_of(const bipft::Program& program) {
  for (const bipft::Path* path : bipft::supported_paths())
    if (bipft::path_number(*path) == program.path) return *path;
  throw std::invalid_argument("the layer was compiled for another processor");
}

void encoder_layer(const Bytes& layer, const Hidden& x, const std::optional<Rows>& mask, Output y,
                   int threads) {
  const auto& program =
      bipft::Program::view(layer.data(), static_cast<std::int64_t>(layer.size()));
  const auto batch = static_cast<std::int64_t>(x.shape(0));
  const auto length = static_cast<std::int64_t>(x.shape(1));
  if (static_cast<std::int64_t>(x.shape(2)) != program.hidden)
    throw std::invalid_argument("the hidden states have another width than the layer");
  for (int i = 0; i < 3; ++i)
    if (x.shape(i) != y.shape(i)) throw std::invalid_argument("the output has another shape");
  if (mask && (mask->shape(0) != x.shape(0) || mask->shape(1) != x.shape(1)))
    throw std::invalid_argument("the mask has another shape than the hidden states");
  const bipft::Path& path = path_of(program);
  nb::gil_scoped_release released;
  if (x.size())
    path.layer(program, x.data(), mask ? mask->data() : nullptr, y.data(), batch, length,
               threads < 1 ? 1 : threads);
}

nb::ndarray<std::uint8_t, nb::numpy> interleave(const Rows& bits, std::int64_t in,
                                                const std::string& path) {
  const bipft::Path& chosen = bipft::path_by_name(path.c_str());
  const auto out = static_cast<std::int64_t>(bits.shape(0));
  if (in < 1 || in > 65535 || static_cast<std::int64_t>(bits.shape(1)) != (in + 7) / 8)
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
  if (in < 1 || in > 65535 || static_cast<std::int64_t>(result.shape(0)) != count ||
      static_cast<std::int64_t>(activations.shape(1)) != bipft::row_bytes(in) ||
      static_cast<std::int64_t>(weights.size()) !=
          bipft::interleaved_bytes(chosen.layout, in, out))
    throw std::invalid_argument("the shapes of activations, weights and result do not match");
  nb::gil_scoped_release released;
  if (count && out)
    chosen.product(weights.data(), in, out, activations.data(), count, result.data(),
                   threads < 1 ? 1 : threads);
}

void require(bool fine, const char* what) {
  if (!fine) throw std::invalid_argument(what);
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
  m.def("interleave", &interleave, "bits"_a, "in_features"_a, "path"_a);
  m.def("binary_product", &binary_product, "activations"_a, "weights"_a, "in_features"_a,
        "result"_a, "path"_a, "threads"_a);
  m.def("rows", &rows, "ids"_a, "packed"_a, "steps"_a, "bits"_a, "result"_a, "path"_a, "threads"_a);
  m.def("words", &words, "ids"_a, "frequent"_a, "frequent_steps"_a, "books"_a, "book_steps"_a,
        "codes"_a, "is_frequent"_a, "before"_a, "frequent_bits"_a, "book_bits"_a, "part"_a,
        "result"_a, "path"_a, "threads"_a);
  m.def("linear", &linear, "x"_a, "packed"_a, "steps"_a, "bias"_a.none(), "bits"_a, "result"_a,
        "path"_a, "threads"_a);
  m.def("compile_layer", &compile_layer, "arrays"_a, "numbers"_a, "path"_a);
  m.def("encoder_layer", &encoder_layer, "layer"_a, "x"_a, "mask"_a.none(), "y"_a, "threads"_a);
}
