#define LEVEL_BYTES 16
#include "cpu/search_level.h"

namespace pathconv {
extern const SearchLevel search_baseline = {distances, find};
}
