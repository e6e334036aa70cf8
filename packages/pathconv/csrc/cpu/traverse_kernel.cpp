#include "cpu/traverse_kernel.h"

#include <vector>

#include "cpu/traverse_memory.h"
#include "cpu/traverse_plan.h"

namespace pathconv::traversal {
namespace {

constexpr int64_t kLargeSample = 1 << 19;  // bytes of which two are too many for the cache
constexpr int64_t kScatteredBatch = 4;     // samples that are worth slots for the pixels of one
constexpr int64_t kSmallPlane = 1 << 13;   // bytes that are read sooner than the next can be brought

// Whether sums are scattered into slots, as pays where a sample does not stay in the cache: by shapes alone, so that no
// number of threads decides in which order they add.
bool scatters(const Params& a, SequenceStrides gs) {
  const int64_t bytes = a.channels * bytes_of(a.dtype);
  if (a.paths * a.length() * bytes < kLargeSample) return false;
  const bool apart = gs.l >= a.paths * a.channels;  // not so where a gradient is one number, expanded
  return a.batch >= kScatteredBatch && is_accumulator(a.dtype) && bytes >= 8 && bytes <= kSlot && apart;
}

// The later one of a thread's tasks, up to `end`, whose planes are asked for during the i-th.
int64_t later_task(int64_t i, int64_t end, int64_t bytes) {
  return std::min(i + (bytes < kSmallPlane ? 2 : 1), end - 1);
}

// The sequence has its positions side by side: one plane per task.
void gather_planes(const Params& a, const void* x, ImageStrides xs, const int32_t* index, void* y, SequenceStrides ys,
                   Place place) {
  const int64_t length = a.length(), element = bytes_of(a.dtype), last = (a.batch - 1) * xs.n + (a.channels - 1) * xs.c;
  const bool direct = pixel_stride(a, xs) == 1;
  const bool stream = streams(y, length * element, a.batch * a.paths * a.channels * length * element);
  const Plan<Picks> picks = plan_picks(a, index, place);
  run(place.parallel, a.batch * a.channels, a.paths * length, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Scratch> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / a.channels, c = i % a.channels, from = n * xs.n + c * xs.c;
      PlaneGather job = {at(x, from, a.dtype), index,   a.paths, length,        at(y, n * ys.n + c * ys.c, a.dtype),
                         a.channels * ys.c,    nullptr, stream,  data_of(picks)};
      if (!direct || (element == 2 && from == last)) {
        if (!scratch) scratch = std::make_unique<Scratch>(length * element);
        copy_image(a, job.plane, xs, scratch->data(), planes_of(a), 1);
        job.plane = scratch->data();
      } else if (i + 1 < end) {
        const int64_t later = later_task(i, end, length * element);
        job.next = at(x, later / a.channels * xs.n + later % a.channels * xs.c, a.dtype);
        for (int64_t p = 0; stream && p < a.paths; ++p)
          __builtin_prefetch(at(y, later / a.channels * ys.n + (p * a.channels + later % a.channels) * ys.c, a.dtype));
      }
      place.level.gather_planes(element, job);
    }
  });
}

// It has its channels side by side: one sample per task.
void gather_pixels(const Params& a, const void* x, ImageStrides xs, const int32_t* index, void* y, SequenceStrides ys,
                   Place place) {
  const int64_t length = a.length(), element = bytes_of(a.dtype), bytes = a.channels * element;
  const bool direct = (a.channels == 1 || xs.c == 1) && pixel_stride(a, xs) > 0;
  const bool stream = streams(y, 64, a.batch * a.paths * bytes * length) && a.paths * bytes * length % 64 == 0;
  // (Each sample has another one before or behind it, unless all are the same.)
  Plan<uint64_t> places;
  if (direct && pixel_stride(a, xs) == 3 && xs.n > 0) places = plan_places(a, index, 3, 0);
  run(place.parallel, a.batch, a.paths * a.channels * length, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Scratch> scratch;
    if (!direct) scratch = std::make_unique<Scratch>(length * bytes);
    for (int64_t n = begin; n < end; ++n) {
      const void* sample = at(x, n * xs.n, a.dtype);
      if (!direct) copy_image(a, sample, xs, scratch->data(), pixels_of(a), a.channels);
      place.level.gather_pixels({direct ? sample : scratch->data(), direct ? pixel_stride(a, xs) * element : bytes,
                                 index, a.paths, length, bytes, at(y, n * ys.n, a.dtype),
                                 direct && n + 1 < end ? at(sample, xs.n, a.dtype) : nullptr, stream, data_of(places),
                                 n + 1 == a.batch});
    }
  });
}

void sum_planes(const Params& a, const void* grad, SequenceStrides gs, const int32_t* inverse, void* x, ImageStrides xs,
                Place place) {
  const int64_t length = a.length(), element = bytes_of(a.dtype);
  const int64_t last = (a.batch - 1) * gs.n + (a.paths * a.channels - 1) * gs.c;
  const bool direct = pixel_stride(a, xs) == 1;
  const bool stream = direct && streams(x, length * element, a.batch * a.channels * length * element);
  Plan<Picks> picks;
  Plan<PickBlock> blocks;
  if (a.paths > 1 && a.paths * length * element >= kLargeSample) {
    blocks = plan_blocks(a, inverse, place);
  } else {
    picks = plan_picks(a, inverse, place);
  }
  run(place.parallel, a.batch * a.channels, a.paths * length, [&](int64_t begin, int64_t end) {
    std::unique_ptr<Scratch> sums, plane, parts;
    std::vector<const void*> planes(a.paths);
    if (!direct) sums = std::make_unique<Scratch>(length * element);
    if (data_of(blocks) != nullptr) parts = std::make_unique<Scratch>(length * element);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / a.channels, c = i % a.channels;
      void* out = at(x, n * xs.n + c * xs.c, a.dtype);
      const int64_t later = later_task(i, end, length * element);
      int64_t next = element * ((later / a.channels - n) * gs.n + (later % a.channels - c) * gs.c);
      if (stream) __builtin_prefetch(at(x, later / a.channels * xs.n + later % a.channels * xs.c, a.dtype));
      for (int64_t p = 0; p < a.paths; ++p) {
        const int64_t from = n * gs.n + (p * a.channels + c) * gs.c;
        planes[p] = at(grad, from, a.dtype);
        if (element == 2 && from == last) {
          if (!plane) {  // several paths share it where a gradient is expanded
            plane = std::make_unique<Scratch>(length * element);
            std::memcpy(plane->data(), planes[p], length * element);
          }
          planes[p] = plane->data();
          next = 0;
        }
      }
      place.level.sum_planes(a.dtype, a.dtype,
                             {planes.data(), inverse, a.paths, length, direct ? out : sums->data(), next, stream,
                              data_of(picks), data_of(blocks), parts ? parts->data() : nullptr});
      if (!direct) copy_image(a, sums->data(), planes_of(a), out, xs, 1);
    }
  });
}

void sum_pixels(const Params& a, const void* grad, SequenceStrides gs, const int32_t* index, const int32_t* inverse,
                void* x, ImageStrides xs, Place place) {
  const int64_t length = a.length(), bytes = length * a.channels * bytes_of(a.dtype);
  const bool direct = dense_pixels(a, xs);
  const bool dense = gs.l == a.paths * a.channels && gs.c == 1 && gs.n > 0;  // and another sample before or behind each
  Plan<RunBlock> runs;
  if (dense) runs = plan_runs(a, inverse, place);
  const bool running = data_of(runs) != nullptr, scattered = !running && scatters(a, gs);
  Plan<uint64_t> places;
  if (dense && !place.level.plans && !scattered) places = plan_places(a, inverse, 9, 3);
  // Scattered sums are written in one go, where only the result counts; else what is read wants the cache, too.
  const bool stream = direct && streams(x, bytes, a.batch * bytes * (scattered ? 1 : 1 + a.paths));
  run(place.parallel, a.batch, a.paths * a.channels * length, [&](int64_t begin, int64_t end) {
    const Scratch slots(scattered ? length * kSlot : 0), sums(running || !direct ? bytes : 0);
    void* previous = nullptr;  // where the sums of runs go that are still in `sums`
    for (int64_t n = begin; n < end; ++n) {
      void* const out = at(x, n * xs.n, a.dtype);
      PixelSum job = {at(grad, n * gs.n, a.dtype), gs.l, a.channels * gs.c, inverse, a.paths, length, a.channels,
                      direct ? out : sums.data()};
      job.next = n + 1 < end && !scattered ? gs.n * bytes_of(a.dtype) : 0;
      job.index = index;
      job.stream = stream;
      if (scattered) job.slots = slots.data();
      if (running) {
        job.runs = runs->data();
        job.sums = sums.data();
        job.previous = previous;
      }
      job.places = data_of(places);
      job.last = n + 1 == a.batch;
      place.level.sum_pixels(a.dtype, a.dtype, job);
      if (direct) previous = out;
      if (!direct) copy_image(a, sums.data(), pixels_of(a), out, xs, a.channels);
    }
    if (running && previous != nullptr)  // (all but the pixels beyond whole runs)
      std::memcpy(previous, sums.data(), length / kPicked * kRunBytes);
  });
}

}  // namespace

const Level& level_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return level_avx512;
  if (isa == leanconv::Isa::avx2) return level_avx2;
#endif
  return level_baseline;
}

void gather(const Params& a, const void* x, ImageStrides xs, const int32_t* index, void* y, SequenceStrides ys,
            Place place) {
  if (a.batch * a.channels * a.paths * a.length() == 0) return;
  (ys.l == 1 ? gather_planes : gather_pixels)(a, x, xs, index, y, ys, place);
}

void adjoint(const Params& a, const void* grad, SequenceStrides gs, const int32_t* index, const int32_t* inverse,
             void* x, ImageStrides xs, Place place) {
  if (a.batch * a.channels * a.length() == 0) return;
  if (gs.l == 1) return sum_planes(a, grad, gs, inverse, x, xs, place);
  sum_pixels(a, grad, gs, index, inverse, x, xs, place);
}

}  // namespace pathconv::traversal
