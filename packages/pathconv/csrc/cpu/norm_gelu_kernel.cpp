#include "cpu/norm_gelu_kernel.h"

#include <algorithm>

namespace pathconv::norm_gelu {
namespace {

constexpr int64_t kNumbersPerThread = 1 << 15;

Rows* rows_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return rows_avx512;
  if (isa == leanconv::Isa::avx2) return rows_avx2;
#endif
  return rows_baseline;
}

}  // namespace

void forward(const Params& a, leanconv::Isa isa, ParallelFor parallel) {
  if (a.rows == 0 || a.channels == 0) return;
  struct Job {
    const Params& params;
    Rows* rows;
  } const job = {a, rows_for(isa)};
  const auto body = [](const void* context, int64_t begin, int64_t end) {
    const Job& job = *static_cast<const Job*>(context);
    job.rows(job.params, begin, end);
  };
  parallel(a.rows, std::max<int64_t>(1, kNumbersPerThread / a.channels), body, &job);
}

}  // namespace pathconv::norm_gelu
