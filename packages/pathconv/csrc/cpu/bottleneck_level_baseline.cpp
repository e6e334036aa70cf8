#define LEVEL_BYTES 16
#include "cpu/bottleneck_rows.h"

namespace pathconv::bottleneck {
extern const Level level_baseline = kLevel;
}  // namespace pathconv::bottleneck
