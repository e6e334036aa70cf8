#define LEVEL_BYTES 16
#include "cpu/depthwise.h"
#include "cpu/level.h"
#include "cpu/rasterize.h"

namespace smpconv {
extern const Level level_baseline = {SMPCONV_DEPTHWISE_LEVEL, SMPCONV_RASTERIZE_LEVEL};
}
