/* lutra.h - everything: compress large language models and run them. Start with base.h. */
#ifndef LUTRA_LUTRA_H
#define LUTRA_LUTRA_H

#include "lutra/base.h"
#include "lutra/engine.h"
#include "lutra/eval.h"
#include "lutra/format.h"
#include "lutra/method.h"
#include "lutra/model.h"
#include "lutra/quant.h"
#include "lutra/recipe.h"
#include "lutra/tensor.h"
#include "lutra/text.h"

#endif
