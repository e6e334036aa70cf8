#define LEVEL_BYTES 16
#include "cpu/traverse_product.h"

namespace pathconv::traversal {
extern const Level level_baseline = kLevel;
}
