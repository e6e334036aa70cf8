#define LEVEL_BYTES 16
#include "cpu/conv.h"
#include "cpu/grad.h"

namespace dwoconv1d {
extern const Level level_baseline = {LEVEL_BYTES, conv, grad, nullptr, nullptr};
}
