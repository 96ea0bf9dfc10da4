#include "engine/model/rope.h"

#include <math.h>
#include <sleef.h>

#include "engine/base/size.h"

/* head_dim is at most this; config_read.c checks it. */
#define MAX_HALF 512

/* PyTorch's powers of a tensor with AVX-512 that go through vectors; the rest of a tensor, and all of
 * a short one, goes through the C library's powf. */
#define POWERS_AT_ONCE 32

/* theta^(2i/d) by SLEEF's powf u10 with fused multiply-add, which gives PyTorch's bits: for theta =
 * 1e6, d = 128, i = 37 it is not the correctly rounded power. The C library's is, but for one in
 * thousands. */
static float power(double theta, size_t i, size_t head_dim)
{
    float exponent = (float)(2 * i) / (float)head_dim;
    if (i >= head_dim / 2 / POWERS_AT_ONCE * POWERS_AT_ONCE)
        return (float)Sleef_cinz_powd1_u10purec((float)theta, exponent);
    return Sleef_finz_powf1_u10purecfma((float)theta, exponent);
}

/* The frequency index at which a wave makes `rotations` turns over the original context. */
static double correction_dim(const config_t *config, double rotations)
{
    double positions = (double)config->rope.original_max_position_embeddings;
    double turns = positions / (rotations * 2 * 3.14159265358979323846);
    return (double)config->head_dim * Sleef_cinz_logd1_u10purec(turns) /
           (2 * Sleef_cinz_logd1_u10purec(config->rope_theta));
}

static double yarn_frequencies(const config_t *config, float *inv_freq)
{
    const config_rope_t *yarn = &config->rope;
    size_t half = config->head_dim / 2;
    double low = correction_dim(config, yarn->beta_fast);
    double high = correction_dim(config, yarn->beta_slow);
    if (yarn->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low < 0 ? 0 : low;
    high = high > (double)config->head_dim - 1 ? (double)config->head_dim - 1 : high;
    if (low == high)
        high += 0.001;
    for (size_t i = 0; i < half; i++) {
        float p = power(config->rope_theta, i, config->head_dim);
        float extrapolated = 1.0f / p;
        float interpolated = 1.0f / ((float)yarn->factor * p);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1.0f - ramp;
        inv_freq[i] = interpolated * (1.0f - keep) + extrapolated * keep;
    }
    return yarn->attention_factor;
}

/* As transformers' _compute_llama3_parameters, every operation in f32: waves longer than original /
 * low_freq_factor positions are divided by the factor, those shorter than original /
 * high_freq_factor kept, and a line over 1 / wavelength leads from one to the other. A number
 * divided by a tensor is there the tensor's reciprocal times the number. */
static void llama3_frequencies(const config_t *config, float *inv_freq)
{
    const config_rope_t *rope = &config->rope;
    double original = (double)rope->original_max_position_embeddings;
    float longest = (float)(original / rope->low_freq_factor);
    float shortest = (float)(original / rope->high_freq_factor);
    float low = (float)rope->low_freq_factor, factor = (float)rope->factor;
    float range = (float)(rope->high_freq_factor - rope->low_freq_factor);
    for (size_t i = 0; i < config->head_dim / 2; i++) {
        float inv = 1.0f / power(config->rope_theta, i, config->head_dim);
        float wave = (1.0f / inv) * (float)(2 * 3.14159265358979323846);
        float smooth = ((1.0f / wave) * (float)original - low) / range;
        if (wave > longest)
            inv_freq[i] = inv / factor;
        else if (wave < shortest)
            inv_freq[i] = inv;
        else
            inv_freq[i] = (1.0f - smooth) * inv / factor + smooth * inv;
    }
}

/* As transformers' _compute_dynamic_ntk_parameters: base of a call of `length` tokens. At first it
 * is computed in Python's floats, when a call grows beyond the original length in a tensor of f32,
 * but for the exponent. */
static double dynamic_base(const config_t *config, size_t length)
{
    double factor = config->rope.factor, original = (double)config->max_position_embeddings;
    double dim = (double)config->head_dim, exponent = dim / (dim - 2);
    if (length <= config->max_position_embeddings) {
        double stretch = factor * original / original - (factor - 1);
        return config->rope_theta * Sleef_cinz_powd1_u10purec(stretch, exponent);
    }
    float stretch = (float)factor * (float)length / (float)original - (float)(factor - 1);
    float power = (float)Sleef_cinz_powd1_u10purec(stretch, exponent);
    return (double)((float)config->rope_theta * power);
}

double rope_frequencies(const config_t *config, size_t length, float *inv_freq)
{
    const config_rope_t *rope = &config->rope;
    if (rope->type == ROPE_YARN)
        return yarn_frequencies(config, inv_freq);
    if (rope->type == ROPE_LLAMA3) {
        llama3_frequencies(config, inv_freq);
        return 1.0;
    }
    double base = rope->type == ROPE_DYNAMIC ? dynamic_base(config, length) : config->rope_theta;
    for (size_t i = 0; i < config->head_dim / 2; i++) {
        inv_freq[i] = 1.0f / power(base, i, config->head_dim);
        if (rope->type == ROPE_LINEAR)
            inv_freq[i] /= (float)rope->factor;
    }
    return 1.0;
}

bool rope_follows_length(const config_t *config, size_t length)
{
    return config->rope.type == ROPE_DYNAMIC && length > config->max_position_embeddings;
}

static float f32_entry(double value, float factor, dtype_t mode)
{
    float entry = (float)value * factor;
    return mode == DTYPE_BF16 ? f32_round_bf16(entry) : entry;
}

/* One position. cosines, sines: [half] of f32 or f64 */
static void table_row(const float *inv_freq, size_t half, double factor, dtype_t mode,
    size_t position, void *cosines, void *sines)
{
    for (size_t i = 0; i < half; i++) {
        /* bf16 follows the reference, whose angle is a float; the others have the smallest
         * error. */
        double angle = mode == DTYPE_BF16 ? (double)((float)position * inv_freq[i])
                                          : (double)position * (double)inv_freq[i];
        double cosine = Sleef_cinz_cosd1_u10purec(angle), sine = Sleef_cinz_sind1_u10purec(angle);
        if (mode == DTYPE_F64) {
            ((double *)cosines)[i] = cosine * factor;
            ((double *)sines)[i] = sine * factor;
        } else {
            ((float *)cosines)[i] = f32_entry(cosine, (float)factor, mode);
            ((float *)sines)[i] = f32_entry(sine, (float)factor, mode);
        }
    }
}

static size_t half_of(const config_t *config)
{
    return size_min(config->head_dim / 2, MAX_HALF);
}

static size_t row_bytes(const config_t *config, dtype_t mode)
{
    return half_of(config) * (mode == DTYPE_F64 ? sizeof(double) : sizeof(float));
}

void rope_tables(
    const config_t *config, dtype_t mode, size_t first, size_t n, void *cosines, void *sines)
{
    float inv_freq[MAX_HALF];
    size_t bytes = row_bytes(config, mode);
    double factor = rope_frequencies(config, 0, inv_freq);
    for (size_t p = 0; p < n; p++) {
        if (rope_follows_length(config, first + p + 1))
            factor = rope_frequencies(config, first + p + 1, inv_freq);
        table_row(inv_freq, half_of(config), factor, mode, first + p, (char *)cosines + p * bytes,
            (char *)sines + p * bytes);
    }
}

void rope_call_tables(const config_t *config, dtype_t mode, size_t ref_q_len, size_t first,
    size_t n, void *cosines, void *sines)
{
    float inv_freq[MAX_HALF];
    size_t bytes = row_bytes(config, mode);
    double factor = rope_frequencies(config, ref_q_len, inv_freq);
    for (size_t p = 0; p < n; p++)
        table_row(inv_freq, half_of(config), factor, mode, first + p, (char *)cosines + p * bytes,
            (char *)sines + p * bytes);
}
