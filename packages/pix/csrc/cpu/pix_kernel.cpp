#include "cpu/pix_kernel.h"

namespace pix {
namespace {

constexpr int64_t kColumns = 256;  // of the weight, that one thread takes at a time

// Whether every sample goes through all steps while it is in the cache, one per thread, or every step through all
// samples, so that the weight is read once.
bool sample_by_sample(const Params& a, const Place& place) {
  return a.batch >= place.threads && a.outputs <= a.pixels;  // the weight is no larger than a sample
}

template <class A>
void divide(A* sums, int64_t count, int64_t divisor) {
  for (int64_t i = 0; i < count; ++i) sums[i] /= static_cast<A>(divisor);
}

}  // namespace

void fused_forward(const Params& a, const Forward& f, const Blend& blend, void* z, const Place& place) {
  if (a.batch == 0 || a.outputs == 0) return;
  const Level& level = place.level;
  const Reduction context(a, a.channels);
  const int64_t parts = context.parts(), bytes = leanconv::sum_bytes_of(a.dtype);
  const int64_t units = a.channels_last ? a.pixels : a.outputs;
  const auto z_of = [&](int64_t n) { return static_cast<char*>(z) + n * a.channels * bytes; };
  const auto sum = [&](int64_t n, int64_t begin, int64_t end, void* scratch) {
    context.parts(begin, end, z_of(n), scratch,
                  [&](int64_t i, int64_t j, void* out) { level.sums(a, f, n, i, j, out); });
  };
  const auto finish = [&](int64_t n, const void* scratch) {
    context.finish(z_of(n), scratch);
    with_sums(a.dtype,
              [&](auto zero) { divide(static_cast<decltype(zero)*>(z) + n * a.channels, a.channels, a.pixels); });
  };
  if (sample_by_sample(a, place)) {
    run(place, a.batch, a.channels * a.pixels, [&](int64_t begin, int64_t end) {
      const Sums scratch(context.scratch(), a.dtype);
      for (int64_t n = begin; n < end; ++n) {
        sum(n, 0, parts, scratch.at(0));
        finish(n, scratch.at(0));
        level.blend(a, blend, n, n + 1, 0, a.outputs);
        level.pick(a, f, n, 0, units);
      }
    });
    return;
  }
  const Sums scratch(a.batch * context.scratch(), a.dtype);
  run(place, a.batch * parts, context.numbers(), [&](int64_t begin, int64_t end) {
    each_sample(begin, end, parts,
                [&](int64_t n, int64_t b, int64_t e) { sum(n, b, e, scratch.at(n * context.scratch())); });
  });
  run(place, a.batch, context.scratch(), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) finish(n, scratch.at(n * context.scratch()));
  });
  run(place, a.outputs, a.channels * (1 + a.batch / 4),
      [&](int64_t begin, int64_t end) { level.blend(a, blend, 0, a.batch, begin, end); });
  if (a.pixels == 0) return;
  run(place, a.batch * units, a.channels * a.pixels / units, [&](int64_t begin, int64_t end) {
    each_sample(begin, end, units, [&](int64_t n, int64_t b, int64_t e) { level.pick(a, f, n, b, e); });
  });
}

void fused_backward(const Params& a, const Backward& b, const void* grad_p, const Blend& blend, const Place& place) {
  const Level& level = place.level;
  const Reduction products(a, a.outputs);
  const int64_t parts = products.parts(), bytes = leanconv::sum_bytes_of(a.dtype);
  const int64_t units = a.channels_last ? a.pixels : a.outputs;
  const auto dots = [&](int64_t n, int64_t begin, int64_t end, void* scratch) {
    products.parts(begin, end, static_cast<char*>(blend.d_logit) + n * a.outputs * bytes, scratch,
                   [&](int64_t i, int64_t j, void* out) { level.dots(a, b, n, i, j, out); });
  };
  // y = p m, so the sum of grad * y is p times the gradient of p, and d_logit is that times 1 - p.
  const auto finish = [&](int64_t n, const void* scratch) {
    with_sums(a.dtype, [&](auto zero) {
      using A = decltype(zero);
      A* d_logit = static_cast<A*>(blend.d_logit) + n * a.outputs;
      const A* p = static_cast<const A*>(b.p) + n * a.outputs;
      products.finish(d_logit, scratch);
      for (int64_t c = 0; c < a.outputs; ++c) d_logit[c] *= 1 - p[c];
      if (grad_p == nullptr) return;
      const A* more = static_cast<const A*>(grad_p) + n * a.outputs;
      for (int64_t c = 0; c < a.outputs; ++c) d_logit[c] += more[c] * p[c] * (1 - p[c]);
    });
  };
  // Only the mean over the pixels sees d_z, so each of them gets its share.
  const auto share = [&](int64_t n) {
    with_sums(a.dtype, [&](auto zero) {
      divide(static_cast<decltype(zero)*>(blend.d_z) + n * a.channels, a.channels, std::max<int64_t>(a.pixels, 1));
    });
  };
  if (sample_by_sample(a, place)) {
    run(place, a.batch, a.channels * a.pixels, [&](int64_t begin, int64_t end) {
      const Sums scratch(products.scratch(), a.dtype);
      for (int64_t n = begin; n < end; ++n) {
        dots(n, 0, parts, scratch.at(0));
        finish(n, scratch.at(0));
        level.spread(a, blend, n, n + 1, 0, a.channels);
        share(n);
        level.scatter(a, b, n, 0, units);
      }
      level.fence();
    });
  } else {
    const Sums scratch(a.batch * products.scratch(), a.dtype);
    run(place, a.batch * parts, products.numbers(), [&](int64_t begin, int64_t end) {
      each_sample(begin, end, parts, [&](int64_t n, int64_t first, int64_t last) {
        dots(n, first, last, scratch.at(n * products.scratch()));
      });
    });
    run(place, a.batch, a.outputs + products.scratch(), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) finish(n, scratch.at(n * products.scratch()));
    });
    run(place, (a.channels + kColumns - 1) / kColumns, kColumns * a.outputs, [&](int64_t begin, int64_t end) {
      level.spread(a, blend, 0, a.batch, begin * kColumns, std::min(end * kColumns, a.channels));
    });
    run(place, a.batch, a.channels, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) share(n);
    });
    if (a.pixels > 0) {
      run(place, a.batch * units, a.channels * a.pixels / std::max<int64_t>(units, 1), [&](int64_t begin, int64_t end) {
        each_sample(begin, end, units,
                    [&](int64_t n, int64_t first, int64_t last) { level.scatter(a, b, n, first, last); });
        level.fence();
      });
    }
  }
  run(place, a.outputs, a.channels * (1 + a.batch / 4),
      [&](int64_t begin, int64_t end) { level.outer(a, blend, begin, end); });
}

}  // namespace pix
