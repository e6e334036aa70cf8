#define LEVEL_BYTES 16
#include "cpu/depthwise_conv.h"
#include "cpu/depthwise_grad.h"

namespace pathconv::depthwise {
extern const Level level_baseline = {LEVEL_BYTES, conv, grad};
}
