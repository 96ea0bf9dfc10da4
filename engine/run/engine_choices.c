#include "engine/run/engine_choices.h"

#include "engine/run/engine.h"

const choice_t engine_modes[] = {
    {"bf16", DTYPE_BF16}, {"f32", DTYPE_F32}, {"f64", DTYPE_F64}, {NULL, 0}};
const choice_t engine_orders[] = {{"torch", ORDER_TORCH}, {"torch-avx2", ORDER_TORCH_AVX2},
    {"uniform", ORDER_UNIFORM}, {NULL, 0}};
const choice_t engine_attentions[] = {
    {"eager", ATTENTION_EAGER}, {"sdpa", ATTENTION_SDPA}, {"auto", ATTENTION_AUTO}, {NULL, 0}};
const choice_t engine_dots[] = {
    {"chain", DOT_CHAIN}, {"amx", DOT_AMX}, {"auto", DOT_AUTO}, {NULL, 0}};
const choice_t engine_used_dots[] = {
    {"chain", DOT_CHAIN}, {"amx", DOT_AMX}, {"fold", DOT_FOLD}, {NULL, 0}};
const choice_t engine_quantised_orders[] = {
    {"torch", QUANTISED_ORDER_TORCH}, {"dequantize", QUANTISED_ORDER_DEQUANTIZE}, {NULL, 0}};
const choice_t engine_kinds[] = {{"bf16", QUANTISED_KIND_NONE},
    {"int4-g32", QUANTISED_KIND_INT4_G32}, {"int4-g64", QUANTISED_KIND_INT4_G64},
    {"int4-g128", QUANTISED_KIND_INT4_G128}, {"int8", QUANTISED_KIND_INT8},
    {"int8-g128", QUANTISED_KIND_INT8_G128}, {"fp8", QUANTISED_KIND_FP8}, {NULL, 0}};
const choice_t engine_weights[] = {
    {"dense", WEIGHTS_DENSE}, {"packed", WEIGHTS_PACKED}, {"auto", WEIGHTS_AUTO}, {NULL, 0}};
const choice_t engine_combines[] = {{"gather", PLAN_GATHER}, {"reduce", PLAN_REDUCE}, {NULL, 0}};
const choice_t engine_paths[] = {{"auto", COMM_AUTO}, {"mpi", COMM_MPI}, {NULL, 0}};
const choice_t engine_binds[] = {{"none", TOPOLOGY_BIND_NONE}, {"core", TOPOLOGY_BIND_CORE},
    {"numa", TOPOLOGY_BIND_NUMA}, {NULL, 0}};
