// Device code of rasterize, both ways.
#pragma once

#include "cuda/gather.cuh"
#include "cuda/spread.cuh"
