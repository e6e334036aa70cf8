#include "cpu/pick_kernel.h"

namespace pix {

void forward(const Params& a, const Forward& f, const Place& place) {
  if (a.pixels == 0 || a.outputs == 0) return;
  const int64_t units = a.channels_last ? a.pixels : a.outputs;
  run(place, a.batch * units, a.channels * a.pixels / units, [&](int64_t begin, int64_t end) {
    each_sample(begin, end, units, [&](int64_t n, int64_t b, int64_t e) { place.level.pick(a, f, n, b, e); });
  });
}

void backward(const Params& a, const Backward& b, void* grad_p, const Place& place) {
  const Reduction products(a, a.outputs);
  const int64_t parts = products.parts(), bytes = leanconv::sum_bytes_of(a.dtype);
  const Sums scratch(a.batch * products.scratch(), a.dtype);
  const auto sums_of = [&](int64_t n) { return static_cast<char*>(grad_p) + n * a.outputs * bytes; };
  // Every part is read and written once: what its sums have read is still in the cache.
  run(place, a.batch * parts, products.numbers() * a.zeta, [&](int64_t begin, int64_t end) {
    each_sample(begin, end, parts, [&](int64_t n, int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        products.parts(part, part + 1, sums_of(n), scratch.at(n * products.scratch()),
                       [&](int64_t i, int64_t j, void* out) { place.level.dots(a, b, n, i, j, out); });
        place.level.scatter(a, b, n, products.first(part), products.first(part + 1));
      }
    });
    place.level.fence();
  });
  with_sums(a.dtype, [&](auto zero) {
    using A = decltype(zero);
    for (int64_t n = 0; n < a.batch; ++n) {
      A* sums = static_cast<A*>(grad_p) + n * a.outputs;
      products.finish(sums, scratch.at(n * products.scratch()));
      const A* p = static_cast<const A*>(b.p) + n * a.outputs;
      for (int64_t c = 0; c < a.outputs; ++c) sums[c] = p[c] == 0 ? A{0} : sums[c] / p[c];
    }
  });
}

}  // namespace pix
