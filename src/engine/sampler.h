/* sampler.h - what lutra_generate asks of a sampler besides lutra/engine.h. */
#ifndef LU_ENGINE_SAMPLER_H
#define LU_ENGINE_SAMPLER_H

#include "lutra/engine.h"

/* The number in [0, 1) that the next pick would draw: for tokens that are chosen elsewhere. */
double lu_sampler_draw(lutra_sampler *s);

#endif
