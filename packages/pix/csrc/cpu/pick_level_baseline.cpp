#define LEVEL_BYTES 16
#include "cpu/pick_backward.h"
#include "cpu/pick_blend.h"
#include "cpu/pick_forward.h"
#include "cpu/pick_sums.h"

namespace pix {
extern const Level level_baseline = {pick, scatter, fence, dots, sums, blend, spread, outer};
}  // namespace pix
