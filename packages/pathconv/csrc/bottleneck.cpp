// The ops `pathconv::bottleneck*`: the second half of a block and its gradients, some rows at a time, so that what lies
// between the matrix products stays in the caches. Products are torch's own, by MKL or oneDNN. They run on a CPU alone;
// bottleneck.py says when.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "cpu/bottleneck_kernel.h"
#include "cpu_binding.h"

#if defined(__x86_64__) && defined(__linux__)
#define MAYBE_ONEDNN
// As torch's shim_cpu.h has it, whose other headers are not stable; null where torch was built without oneDNN.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(
    AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle* bias, const char* attr, const double** scalars,
    int64_t num_scalars, const char** algorithm, AtenTensorHandle* out);
#endif

namespace pathconv::bottleneck {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kHiddenBytes = 1 << 20;  // of the hidden rows that are worked on together
constexpr int64_t kLarge = 1 << 22;        // multiplications that are worth oneDNN, which compiles for each new shape
constexpr int64_t kFewestRows = 512;       // for which products with the weights are worth reading these

// Rows of numbers at `data`, as an operand of a product.
class Matrix {
 public:
  Matrix(const Tensor& like, void* data, int64_t rows, int64_t columns)
      : like_(like), data_(static_cast<char*>(data)), rows_(rows), columns_(columns) {}
  Matrix(const Tensor& t) : Matrix(t, t.mutable_data_ptr(), t.size(0), t.size(1)) {}

  void* row(int64_t i) const { return data_ + i * columns_ * bytes_of(dtype_of(like_)); }
  Matrix rows(int64_t first, int64_t count) const { return {like_, row(first), count, columns_}; }
  Tensor tensor() const { return as({rows_, columns_}, {columns_, 1}); }
  Tensor turned() const { return as({columns_, rows_}, {1, columns_}); }

 private:
  Tensor as(std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides) const {
    return torch::stable::from_blob(data_, sizes, strides, like_.device(), like_.scalar_type());
  }

  const Tensor& like_;
  char* data_;
  int64_t rows_, columns_;
};

struct Turned {
  const Matrix matrix;
  Tensor tensor() const { return matrix.turned(); }
  Tensor turned() const { return matrix.tensor(); }
};

// out = a b, or out += a b
template <class A, class B>
void multiply_by_torch(const Matrix& out, const A& a, const B& b, bool add) {
  const Tensor target = out.tensor();
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(target.get(), target.get(), a.tensor().get(), b.tensor().get(), add, 1));
}

template <class A, class B>
Tensor multiply_by_onednn(const A& a, const B& b) {
  AtenTensorHandle out = nullptr;
#ifdef MAYBE_ONEDNN
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu__linear_pointwise(a.tensor().get(), b.turned().get(), nullptr, "none", nullptr, 0, nullptr, &out));
#endif
  return Tensor(out);
}

struct Product {
  std::optional<Tensor> own;
  void* data;
};

void check(const Tensor& t, const char* name, std::initializer_list<int64_t> shape, const Tensor& like) {
  STD_TORCH_CHECK(t.dim() == static_cast<int64_t>(shape.size()) && t.is_contiguous() && t.device() == like.device(),
                  name, " must be contiguous, on the device of y, and have ", shape.size(), " dimensions");
  STD_TORCH_CHECK(t.scalar_type() == like.scalar_type(), name, " must have the dtype of y");
  int64_t i = 0;
  for (int64_t size : shape)
    STD_TORCH_CHECK(t.size(i++) == size, name, " must have ", size, " entries in dimension ", i - 1);
}

// What both directions share: sizes, checked, and the pieces of the work.
struct Problem {
  const Tensor &y, &widen, &shift, &weight, &bias, &narrow;
  const std::optional<Tensor>& factor;
  double eps, hidden_eps;
  bool onednn;  // is wanted
  int64_t rows = y.size(0), inputs = y.size(1), hidden = widen.size(0), outputs = narrow.size(0);
  int64_t length = factor.has_value() ? rows / std::max<int64_t>(1, factor->size(0)) : 1;
  bool wide = y.scalar_type() == ScalarType::Double;
  const Level& level = level_for(current_isa);
  // Rows that go together, and how many threads take how many of such chunks each.
  int64_t threads = torch::stable::get_num_threads();
  int64_t fitting = kHiddenBytes / (bytes_of(dtype_of(y)) * std::max<int64_t>(1, hidden));
  int64_t together = std::max<int64_t>(1, std::min(std::max(fitting, kFewestRows), (rows + threads - 1) / threads));
  int64_t chunks = (rows + together - 1) / together, pieces = std::min(threads, chunks);

  bool by_onednn() const {
#ifdef MAYBE_ONEDNN
    return onednn && !wide && outputs > 0 && rows * inputs * hidden >= kLarge &&
           aoti_torch_cpu__linear_pointwise != nullptr;
#else
    return false;
#endif
  }

  void check_all(const Tensor& x, const char* name) const {
    STD_TORCH_CHECK(wide || y.scalar_type() == ScalarType::Float, "y must be float32 or float64, but is ",
                    torch::headeronly::toString(y.scalar_type()));
    check(y, "y", {rows, inputs}, y);
    check(x, name, {rows, outputs}, y);
    check(widen, "widen", {hidden, inputs}, y);
    check(shift, "shift", {hidden}, y);
    check(weight, "weight", {hidden}, y);
    check(bias, "bias", {hidden}, y);
    check(narrow, "narrow", {outputs, hidden}, y);
    if (factor.has_value()) check(*factor, "factor", {factor->size(0)}, y);
    STD_TORCH_CHECK(!factor.has_value() || rows == length * factor->size(0),
                    "y must have the same number of rows for each factor");
  }

  // a b: at `place`, or, where oneDNN makes it and it need not be there, in memory of its own.
  template <class A, class B>
  Product multiply(const Matrix& place, const A& a, const B& b, bool there = false) const {
    if (!by_onednn()) {
      multiply_by_torch(place, a, b, false);
      return {std::nullopt, place.row(0)};
    }
    Tensor found = multiply_by_onednn(a, b);
    void* const data = found.mutable_data_ptr();
    if (!there) return {std::move(found), data};
    std::copy_n(static_cast<const float*>(data), found.numel(), static_cast<float*>(place.row(0)));
    return {std::nullopt, place.row(0)};
  }
  // sum += a b
  template <class A, class B>
  void add_product(const Matrix& sum, const A& a, const B& b) const {
    if (!by_onednn()) return multiply_by_torch(sum, a, b, true);
    const Tensor found = multiply_by_onednn(a, b);
    const float* const from = static_cast<const float*>(found.const_data_ptr());
    float* const to = static_cast<float*>(sum.row(0));
    for (int64_t i = 0; i < found.numel(); ++i) to[i] += from[i];
  }

  const void* factors() const { return factor.has_value() ? factor->const_data_ptr() : nullptr; }

  // body(piece, first, count) for the chunks of rows of every piece
  template <class F>
  void run(const F& body) const {
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece)
        for (int64_t i = chunks * piece / pieces; i < chunks * (piece + 1) / pieces; ++i)
          body(piece, i * together, std::min(together, rows - i * together));
    });
  }
  Matrix matrix(const Tensor& memory, int64_t piece, int64_t columns) const {
    return Matrix(memory, memory.mutable_data_ptr(), memory.size(0), columns).rows(piece * together, together);
  }
  Tensor memory(int64_t columns) const { return torch::stable::new_empty(y, {pieces * together, columns}); }
};

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& y, std::optional<Tensor> factor, const Tensor& widen,
                                   const Tensor& shift, const Tensor& weight, const Tensor& bias, const Tensor& narrow,
                                   const Tensor& end, double eps, double hidden_eps, bool keep, bool onednn) {
  const Problem a = {y, widen, shift, weight, bias, narrow, factor, eps, hidden_eps, onednn};
  a.check_all(x, "x");
  check(end, "end", {a.outputs}, y);
  const Tensor out = torch::stable::new_empty(y, {a.rows, a.outputs});
  const Tensor hidden = torch::stable::new_empty(y, {keep ? a.rows : 0, a.hidden});
  const Tensor normalized = a.memory(a.inputs), active = a.memory(a.hidden);
  a.run([&](int64_t piece, int64_t first, int64_t count) {
    const Matrix rows = a.matrix(normalized, piece, a.inputs).rows(0, count);
    const Matrix results = a.matrix(active, piece, a.hidden).rows(0, count);
    const Matrix to = Matrix(out).rows(first, count);
    a.level.normalize(a.wide, {{count, a.inputs}, eps, Matrix(y).row(first), rows.row(0), nullptr});
    const Product before = a.multiply(keep ? Matrix(hidden).rows(first, count) : results, rows, Turned{widen}, keep);
    a.level.activate(a.wide, {{count, a.hidden},
                              hidden_eps,
                              before.data,
                              shift.const_data_ptr(),
                              weight.const_data_ptr(),
                              bias.const_data_ptr(),
                              results.row(0)});
    const Product z = a.multiply(to, results, Turned{narrow});
    a.level.residual(a.wide, {{count, a.outputs},
                              first,
                              a.length,
                              Matrix(x).row(first),
                              z.data,
                              a.factors(),
                              end.const_data_ptr(),
                              to.row(0)});
  });
  return {out, hidden};
}

// The gradients of y, widen, shift, weight, bias, narrow and end.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& y, const Tensor& hidden, std::optional<Tensor> factor, const Tensor& widen,
    const Tensor& shift, const Tensor& weight, const Tensor& bias, const Tensor& narrow, double eps, double hidden_eps,
    bool onednn) {
  const Problem a = {y, widen, shift, weight, bias, narrow, factor, eps, hidden_eps, onednn};
  a.check_all(grad, "grad");
  check(hidden, "hidden", {a.rows, a.hidden}, y);
  const Tensor grad_y = torch::stable::new_empty(y, {a.rows, a.inputs});
  const Tensor normalized = a.memory(a.inputs), scales = a.memory(1), results = a.memory(a.hidden);
  const Tensor inner = a.memory(a.hidden), outer = a.memory(factor.has_value() ? a.outputs : 0);
  const int64_t pieces = std::max<int64_t>(1, a.pieces);
  const auto sums = [&](int64_t rows, int64_t columns) {
    return torch::stable::new_zeros(y, {pieces * rows, columns});
  };
  const Tensor by_widen = sums(a.inputs, a.hidden), by_narrow = sums(a.outputs, a.hidden), by_shift = sums(1, a.hidden);
  const Tensor by_weight = sums(1, a.hidden), by_bias = sums(1, a.hidden), by_end = sums(1, a.outputs);
  a.run([&](int64_t piece, int64_t first, int64_t count) {
    const Matrix rows = a.matrix(normalized, piece, a.inputs).rows(0, count), to = Matrix(grad_y).rows(first, count);
    const Matrix active = a.matrix(results, piece, a.hidden).rows(0, count);
    const Matrix given = Matrix(grad).rows(first, count);
    const Matrix arriving = factor.has_value() ? a.matrix(outer, piece, a.outputs).rows(0, count) : given;
    void* scale = Matrix(scales).row(piece * a.together);
    a.level.residual_grad(
        a.wide,
        {{count, a.outputs}, first, a.length, given.row(0), a.factors(), arriving.row(0), Matrix(by_end).row(piece)});
    const Product by_active = a.multiply(a.matrix(inner, piece, a.hidden).rows(0, count), arriving, Matrix(narrow));
    const Matrix slopes = {y, by_active.data, count, a.hidden};
    a.level.activate_grad(a.wide, {{{count, a.hidden},
                                    hidden_eps,
                                    Matrix(hidden).row(first),
                                    shift.const_data_ptr(),
                                    weight.const_data_ptr(),
                                    bias.const_data_ptr(),
                                    active.row(0)},
                                   slopes.row(0),
                                   Matrix(by_shift).row(piece),
                                   Matrix(by_weight).row(piece),
                                   Matrix(by_bias).row(piece)});
    a.add_product(Matrix(by_narrow).rows(piece * a.outputs, a.outputs), Turned{arriving}, active);
    a.level.normalize(a.wide, {{count, a.inputs}, eps, Matrix(y).row(first), rows.row(0), scale});
    // (Turned: oneDNN copies a first factor that is not dense, of which this is the smaller one.)
    a.add_product(Matrix(by_widen).rows(piece * a.inputs, a.inputs), Turned{rows}, slopes);
    a.multiply(to, slopes, Matrix(widen), true);
    a.level.normalize_grad(a.wide, {{count, a.inputs}, rows.row(0), scale, to.row(0)});
  });
  const auto total = [&](const Tensor& t, int64_t rows) {
    const int64_t shape[] = {pieces, rows, t.size(1)}, over[] = {0};
    return pieces == 1 ? t : torch::stable::sum(torch::stable::view(t, shape), over);
  };
  const auto numbers = [&](const Tensor& t) { return torch::stable::select(total(t, 1), 0, 0); };
  const Tensor of_widen = torch::stable::contiguous(torch::stable::transpose(total(by_widen, a.inputs), 0, 1));
  return {
      grad_y,         of_widen, numbers(by_shift), numbers(by_weight), numbers(by_bias), total(by_narrow, a.outputs),
      numbers(by_end)};
}

}  // namespace
}  // namespace pathconv::bottleneck

STABLE_TORCH_LIBRARY_FRAGMENT(pathconv, m) {
  m.def("mkl_is_slow() -> bool");
  m.def(
      "bottleneck(Tensor x, Tensor y, Tensor? factor, Tensor widen, Tensor shift, Tensor weight, Tensor bias, Tensor "
      "narrow, Tensor end, float eps, float hidden_eps, bool keep, bool onednn) -> (Tensor out, Tensor hidden)");
  m.def(
      "bottleneck_backward(Tensor grad, Tensor y, Tensor hidden, Tensor? factor, Tensor widen, Tensor shift, Tensor "
      "weight, Tensor bias, Tensor narrow, float eps, float hidden_eps, bool onednn) -> (Tensor, Tensor, Tensor, "
      "Tensor, Tensor, "
      "Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CompositeExplicitAutograd, m) {
  m.impl("mkl_is_slow", TORCH_BOX(&leanconv::mkl_is_slow));
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CPU, m) {
  m.impl("bottleneck", TORCH_BOX(&pathconv::bottleneck::forward));
  m.impl("bottleneck_backward", TORCH_BOX(&pathconv::bottleneck::backward));
}
