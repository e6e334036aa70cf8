#include "cpu/search_kernel.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace pathconv {
namespace {

const SearchLevel& level_for(leanconv::Isa isa) {
#if defined(__x86_64__)
  if (isa == leanconv::Isa::avx512) return search_avx512;
  if (isa == leanconv::Isa::avx2) return search_avx2;
#endif
  return search_baseline;
}

template <class F>
void run(ForEach for_each, int64_t count, const F& task) {
  for_each(count, [](const void* f, int64_t i) { (*static_cast<const F*>(f))(i); }, &task);
}

// The positions of a window's pixels on its path: the curve is narrowed to the rows of the window once for all windows
// in these rows, then every window counts the pixels that fall between its columns.
class Ranks {
 public:
  explicit Ranks(const Curve& curve)
      : curve_(curve), pixels_(curve.image_height * curve.width), ranks_(pixels_.size()), columns_(pixels_.size()) {}

  // Ranks of the window at (row, column); they lie `curve.width` apart.
  const int32_t* at(int32_t row, int32_t column) {
    if (row != row_) narrow(row);
    int32_t rank = 0;
    const auto width = static_cast<uint32_t>(curve_.image_width);
    for (size_t i = 0; i < pixels_.size(); ++i) {
      ranks_[pixels_[i]] = rank;  // of no consequence outside the window; a branch would cost more
      rank += static_cast<uint32_t>(columns_[i] - column) < width;
    }
    return ranks_.data() + column;
  }

 private:
  void narrow(int32_t row) {
    row_ = row;
    const int64_t begin = row * curve_.width, size = static_cast<int64_t>(pixels_.size());
    size_t kept = 0;
    for (int64_t i = 0; i < curve_.length && kept < pixels_.size(); ++i) {
      const int64_t pixel = curve_.order[i] - begin;
      if (pixel < 0 || pixel >= size) continue;
      pixels_[kept] = static_cast<int32_t>(pixel);
      columns_[kept++] = static_cast<int32_t>(pixel % curve_.width);
    }
  }

  const Curve& curve_;
  std::vector<int32_t> pixels_, ranks_, columns_;
  int32_t row_ = -1;
};

// Bits of the pixels whose distance, turned with the path, lies below the limit.
void compare(const Curve& curve, const int32_t* d, int32_t turns, const int32_t* limit, uint8_t* bytes, uint64_t* bits,
             int64_t words) {
  const int64_t height = curve.image_height, width = curve.image_width;
  const int64_t last_row = (height - 1) * width, last_column = width - 1;
  const int64_t begins[] = {0, last_column, last_row + last_column, last_row};
  const int64_t row_steps[] = {width, -1, -width, 1}, column_steps[] = {1, width, -1, -width};
  const int64_t step = column_steps[turns];
  for (int64_t r = 0; r < height; ++r) {
    const int32_t* from = d + begins[turns] + r * row_steps[turns];
    for (int64_t c = 0; c < width; ++c) bytes[r * width + c] = from[c * step] < limit[r * width + c];
  }
  for (int64_t i = 0; i < words; ++i) {
    uint64_t word = 0;
    for (int64_t j = 0; j < 8; ++j) {
      uint64_t eight = 0;  // bytes of 0 or 1, gathered into the uppermost byte; the lowest becomes its lowest bit
      for (int64_t k = 0; k < 8; ++k) eight |= uint64_t{bytes[64 * i + 8 * j + k]} << (8 * k);
      word |= (eight * 0x0102040810204080u >> 56) << (8 * j);
    }
    bits[i] = word;
  }
}

int64_t blocks_of(int64_t bits) { return (bits + 64 * kBlock - 1) / (64 * kBlock); }

// Rows of bits become columns in a square of 64.
void transpose64(uint64_t* a) {
  uint64_t mask = 0x00000000ffffffffu;
  for (int64_t j = 32; j != 0; j >>= 1, mask ^= mask << j) {
    for (int64_t k = 0; k < 64; k = (k + j + 1) & ~j) {
      const uint64_t swap = (a[k] >> j ^ a[k + j]) & mask;
      a[k] ^= swap << j;
      a[k + j] ^= swap;
    }
  }
}

}  // namespace

void evaluate(const Curve& curve, const Window* windows, int64_t count, const int32_t* limit, int64_t* cost,
              uint64_t* better, leanconv::Isa isa, ForEach for_each) {
  const SearchLevel& level = level_for(isa);
  const int64_t pixels = curve.image_height * curve.image_width, words = blocks_of(pixels) * kBlock;
  const int64_t chunk = 256;
  run(for_each, (count + chunk - 1) / chunk, [&](int64_t task) {
    Ranks ranks(curve);
    std::vector<int32_t> d(pixels), edge(curve.image_width);
    std::vector<uint8_t> bytes(64 * words);
    int64_t sum = 0;
    const int64_t begin = task * chunk;
    for (int64_t i = begin; i < std::min(count, begin + chunk); ++i) {
      const Window& w = windows[i];
      if (i == begin || w.row != windows[i - 1].row || w.column != windows[i - 1].column) {
        std::fill(d.begin(), d.end(), 0);
        sum = level.distances(ranks.at(w.row, w.column), curve.width, curve.image_height, curve.image_width, d.data(),
                              edge.data());
      }
      cost[i] = sum;
      compare(curve, d.data(), w.turns, limit, bytes.data(), better + i * words, words);
    }
  });
}

void transpose(const uint64_t* bits, int64_t rows, int64_t words, int64_t columns, uint64_t* out, int64_t out_words,
               ForEach for_each) {
  run(for_each, out_words, [&](int64_t out_word) {
    const int64_t here = std::max(int64_t{0}, std::min(int64_t{64}, rows - 64 * out_word));
    for (int64_t word = 0; 64 * word < columns; ++word) {
      uint64_t square[64] = {};
      for (int64_t i = 0; i < here; ++i) square[i] = bits[(64 * out_word + i) * words + word];
      transpose64(square);
      for (int64_t i = 0; i < std::min(int64_t{64}, columns - 64 * word); ++i)
        out[(64 * word + i) * out_words + out_word] = square[i];
    }
  });
}

void count_common(const uint64_t* bits, int64_t rows, int64_t words, const uint64_t* mask, int64_t* out,
                  ForEach for_each) {
  const int64_t chunk = 1024;
  run(for_each, (rows + chunk - 1) / chunk, [&](int64_t task) {
    for (int64_t i = task * chunk; i < std::min(rows, (task + 1) * chunk); ++i) {
      int64_t count = 0;
      for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(bits[i * words + w] & mask[w]);
      out[i] = count;
    }
  });
}

namespace {

void list_bits(const uint64_t* set, int64_t words, std::vector<int32_t>* list) {
  list->clear();
  for (int64_t w = 0; w < words; ++w)
    for (uint64_t rest = set[w]; rest != 0; rest &= rest - 1)
      list->push_back(static_cast<int32_t>(64 * w + __builtin_ctzll(rest)));
}

// Depth-first search for the cheapest cover of a given size whose earliest, and so cheapest, member is given.
class CoverSearch {
 public:
  CoverSearch(const Candidates& candidates, const SearchLevel& level, int64_t members, int64_t limit)
      : all_(candidates), level_(level), members_(members), limit_(limit), path_(members), best_(members + 1, -1) {
    for (int64_t i = 0; i < members; ++i) uncovered_.emplace_back(all_.words);
  }

  const std::vector<int64_t>& from(int64_t first) {
    std::vector<uint64_t> everything(all_.words, 0);
    for (int64_t p = 0; p < all_.pixels; ++p) everything[p / 64] |= uint64_t{1} << (p % 64);
    add(0, first, everything.data(), 0);
    return best_;
  }

 private:
  // Takes `candidate` as member number `depth`, with `uncovered` and `spent` before it.
  void add(int64_t depth, int64_t candidate, const uint64_t* uncovered, int64_t spent) {
    path_[depth] = candidate;
    spent += all_.cost[candidate];
    std::vector<uint64_t>& rest = uncovered_[depth];
    const uint64_t* column = all_.columns + candidate * all_.words;
    for (int64_t w = 0; w < all_.words; ++w) rest[w] = uncovered[w] & ~column[w];
    list_bits(rest.data(), all_.words, &pixels_);
    const int64_t open = members_ - depth - 1;
    if (pixels_.empty()) {
      if (open == 0 && spent < limit_) record(spent);
      return;
    }
    const int64_t begin = path_[0] + 1;
    if (open == 0 || begin == all_.count) return;
    // Every open place costs at least as much as the candidate after the first member.
    const int64_t end = affordable(spent + (open - 1) * all_.cost[begin]);
    if (begin >= end) return;
    if (open == 1) {
      const int64_t found = level_.find(all_, pixels_.data(), pixels_.size(), begin, end);
      if (found == end) return;
      path_[depth + 1] = found;
      record(spent + all_.cost[found]);
      return;
    }
    // One of the open places must cover the first of the open pixels.
    const uint64_t* row = all_.table + pixels_[0] * kBlock;
    for (int64_t word = begin / 64; 64 * word < end; ++word) {
      uint64_t bits = row[word / kBlock * all_.pixels * kBlock + word % kBlock];
      if (word == begin / 64) bits &= ~uint64_t{0} << (begin % 64);
      for (; bits != 0; bits &= bits - 1) {
        const int64_t next = 64 * word + __builtin_ctzll(bits);
        if (spent + all_.cost[next] + (open - 1) * all_.cost[begin] >= limit_ || next >= end) return;
        add(depth + 1, next, rest.data(), spent);
      }
    }
  }

  // The first candidate too dear where `spent` is gone already.
  int64_t affordable(int64_t spent) const {
    return std::lower_bound(all_.cost, all_.cost + all_.count, limit_ - spent) - all_.cost;
  }

  void record(int64_t cost) {
    limit_ = best_[0] = cost;
    std::copy(path_.begin(), path_.end(), best_.begin() + 1);
  }

  const Candidates& all_;
  const SearchLevel& level_;
  const int64_t members_;
  int64_t limit_;
  std::vector<int64_t> path_, best_;
  std::vector<std::vector<uint64_t>> uncovered_;
  std::vector<int32_t> pixels_;
};

}  // namespace

void find_dominated(const Candidates& candidates, bool* dominated, leanconv::Isa isa, ForEach for_each) {
  const SearchLevel& level = level_for(isa);
  const int64_t chunk = 64;
  run(for_each, (candidates.count + chunk - 1) / chunk, [&](int64_t task) {
    std::vector<int32_t> pixels;
    for (int64_t i = task * chunk; i < std::min(candidates.count, (task + 1) * chunk); ++i) {
      list_bits(candidates.columns + i * candidates.words, candidates.words, &pixels);
      dominated[i] = level.find(candidates, pixels.data(), pixels.size(), 0, i) < i;
    }
  });
}

void find_covers(const Candidates& candidates, const int64_t* firsts, int64_t count, int64_t members, int64_t limit,
                 int64_t* best, leanconv::Isa isa, ForEach for_each) {
  run(for_each, count, [&](int64_t i) {
    CoverSearch search(candidates, level_for(isa), members, limit);
    const std::vector<int64_t>& found = search.from(firsts[i]);
    std::copy(found.begin(), found.end(), best + i * (members + 1));
  });
}

}  // namespace pathconv
