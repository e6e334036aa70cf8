// The native half of the path search: schemas, checks, and the entries that turn tensors into plain pointers. What each
// computes stands in search/reference.py; tensors of bits are int64 (rows, words) with rows padded to 512 bits.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "cpu/search_kernel.h"
#include "cpu_binding.h"

namespace pathconv {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Every thread takes the next item when it is done with one: items differ too much in length to be dealt out evenly.
void for_each(int64_t count, void (*body)(const void*, int64_t), const void* context) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) body(context, i);
  });
}

void check(const Tensor& t, const char* name, ScalarType dtype, int64_t dim) {
  STD_TORCH_CHECK(t.scalar_type() == dtype && t.dim() == dim && t.is_contiguous(), name, " must be a contiguous ",
                  torch::headeronly::toString(dtype), " tensor with ", dim, " dimensions");
}

const int64_t* numbers(const Tensor& t) { return static_cast<const int64_t*>(t.const_data_ptr()); }
const uint64_t* bits_of(const Tensor& t) { return static_cast<const uint64_t*>(t.const_data_ptr()); }

int64_t words_for(int64_t bits) { return (bits + 64 * kBlock - 1) / (64 * kBlock) * kBlock; }

Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype = ScalarType::Long) {
  return torch::stable::new_empty(like, shape, dtype);
}

std::tuple<Tensor, Tensor> search_evaluate(const Tensor& order, int64_t width, const Tensor& windows,
                                           const Tensor& limit) {
  check(order, "order", ScalarType::Int, 1);
  check(windows, "windows", ScalarType::Int, 2);
  check(limit, "limit", ScalarType::Int, 2);
  const int64_t count = windows.size(0), length = order.size(0), rows = limit.size(0), columns = limit.size(1);
  STD_TORCH_CHECK(windows.size(1) == 3, "windows must have shape (n, 3): row, column, quarter turns");
  STD_TORCH_CHECK(width > 0 && length % width == 0, "order must hold whole rows of width ", width);
  const auto* pixels = static_cast<const int32_t*>(order.const_data_ptr());
  for (int64_t i = 0; i < length; ++i)
    STD_TORCH_CHECK(pixels[i] >= 0 && pixels[i] < length, "order must hold pixels below ", length);
  const auto* list = static_cast<const Window*>(windows.const_data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    const Window& w = list[i];
    STD_TORCH_CHECK(w.row >= 0 && w.column >= 0 && w.row + rows <= length / width && w.column + columns <= width,
                    "window ", i, " reaches beyond the curve");
    STD_TORCH_CHECK(w.turns >= 0 && w.turns < 4 && (w.turns % 2 == 0 || rows == columns), "window ", i,
                    " has a rotation that does not fit the image");
  }
  Tensor cost = empty(order, {count}), better = empty(order, {count, words_for(rows * columns)});
  evaluate({pixels, length, width, rows, columns}, list, count, static_cast<const int32_t*>(limit.const_data_ptr()),
           static_cast<int64_t*>(cost.mutable_data_ptr()), static_cast<uint64_t*>(better.mutable_data_ptr()),
           current_isa, for_each);
  return {cost, better};
}

Tensor search_transpose(const Tensor& bits, int64_t columns) {
  check(bits, "bits", ScalarType::Long, 2);
  STD_TORCH_CHECK(columns >= 0 && columns <= 64 * bits.size(1), "columns must be at most ", 64 * bits.size(1));
  Tensor out = empty(bits, {columns, words_for(bits.size(0))});
  transpose(bits_of(bits), bits.size(0), bits.size(1), columns, static_cast<uint64_t*>(out.mutable_data_ptr()),
            out.size(1), for_each);
  return out;
}

Tensor search_count(const Tensor& bits, const Tensor& mask) {
  check(bits, "bits", ScalarType::Long, 2);
  check(mask, "mask", ScalarType::Long, 1);
  STD_TORCH_CHECK(mask.size(0) == bits.size(1), "mask must have the ", bits.size(1), " words of a row of bits");
  Tensor out = empty(bits, {bits.size(0)});
  count_common(bits_of(bits), bits.size(0), bits.size(1), bits_of(mask), static_cast<int64_t*>(out.mutable_data_ptr()),
               for_each);
  return out;
}

Candidates make_candidates(const Tensor& columns, const Tensor& table, const Tensor& cost) {
  check(columns, "columns", ScalarType::Long, 2);
  check(table, "table", ScalarType::Long, 3);
  check(cost, "cost", ScalarType::Long, 1);
  const Candidates all = {bits_of(columns), bits_of(table),  numbers(cost),
                          cost.size(0),     columns.size(1), table.size(1)};
  STD_TORCH_CHECK(columns.size(0) == all.count && all.words == words_for(all.pixels),
                  "columns must have one row for every cost, with a bit for each pixel of table");
  STD_TORCH_CHECK(table.size(0) * kBlock == words_for(all.count) && table.size(2) == kBlock,
                  "table must have shape (blocks of 512 candidates, pixels, 8)");
  STD_TORCH_CHECK(std::is_sorted(all.cost, all.cost + all.count), "cost must be sorted");
  return all;
}

Tensor search_dominated(const Tensor& columns, const Tensor& table, const Tensor& cost) {
  const Candidates all = make_candidates(columns, table, cost);
  Tensor out = empty(cost, {all.count}, ScalarType::Bool);
  find_dominated(all, static_cast<bool*>(out.mutable_data_ptr()), current_isa, for_each);
  return out;
}

Tensor search_covers(const Tensor& columns, const Tensor& table, const Tensor& cost, const Tensor& firsts,
                     int64_t members, int64_t limit) {
  const Candidates all = make_candidates(columns, table, cost);
  check(firsts, "firsts", ScalarType::Long, 1);
  STD_TORCH_CHECK(members > 0, "members must be positive, but is ", members);
  for (int64_t i = 0; i < firsts.size(0); ++i)
    STD_TORCH_CHECK(numbers(firsts)[i] >= 0 && numbers(firsts)[i] < all.count, "firsts must be below ", all.count);
  Tensor best = empty(cost, {firsts.size(0), members + 1});
  find_covers(all, numbers(firsts), firsts.size(0), members, limit, static_cast<int64_t*>(best.mutable_data_ptr()),
              current_isa, for_each);
  return best;
}

}  // namespace
}  // namespace pathconv

STABLE_TORCH_LIBRARY_FRAGMENT(pathconv, m) {
  m.def("search_evaluate(Tensor order, int width, Tensor windows, Tensor limit) -> (Tensor cost, Tensor better)");
  m.def("search_transpose(Tensor bits, int columns) -> Tensor");
  m.def("search_count(Tensor bits, Tensor mask) -> Tensor");
  m.def("search_dominated(Tensor columns, Tensor table, Tensor cost) -> Tensor");
  m.def(
      "search_covers(Tensor columns, Tensor table, Tensor cost, Tensor firsts, int members, int limit) -> Tensor best");
}

STABLE_TORCH_LIBRARY_IMPL(pathconv, CPU, m) {
  m.impl("search_evaluate", TORCH_BOX(&pathconv::search_evaluate));
  m.impl("search_transpose", TORCH_BOX(&pathconv::search_transpose));
  m.impl("search_count", TORCH_BOX(&pathconv::search_count));
  m.impl("search_dominated", TORCH_BOX(&pathconv::search_dominated));
  m.impl("search_covers", TORCH_BOX(&pathconv::search_covers));
}
