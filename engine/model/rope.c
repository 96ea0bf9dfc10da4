#include "engine/model/rope.h"

#include <math.h>
#include <sleef.h>

#include "engine/base/size.h"

/* head_dim is at most this; config.c checks it. */
#define MAX_HALF 512

/* theta^(2i/d) by SLEEF's powf u10 with fused multiply-add, which gives PyTorch's bits: for theta =
 * 1e6, d = 128, i = 37 it is not the correctly rounded power. */
static float power(double theta, size_t i, size_t head_dim)
{
    float exponent = (float)(2 * i) / (float)head_dim;
    return Sleef_finz_powf1_u10purecfma((float)theta, exponent);
}

/* The frequency index at which a wave makes `rotations` turns over the original context. */
static double correction_dim(const config_t *config, double rotations)
{
    double positions = (double)config->yarn.original_max_position_embeddings;
    double turns = positions / (rotations * 2 * 3.14159265358979323846);
    return (double)config->head_dim * Sleef_cinz_logd1_u10purec(turns) /
           (2 * Sleef_cinz_logd1_u10purec(config->rope_theta));
}

static double yarn_frequencies(const config_t *config, float *inv_freq)
{
    const config_yarn_t *yarn = &config->yarn;
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

double rope_frequencies(const config_t *config, float *inv_freq)
{
    if (config->yarn.enabled)
        return yarn_frequencies(config, inv_freq);
    for (size_t i = 0; i < config->head_dim / 2; i++)
        inv_freq[i] = 1.0f / power(config->rope_theta, i, config->head_dim);
    return 1.0;
}

static float f32_entry(double value, float factor, dtype_t mode)
{
    float entry = (float)value * factor;
    return mode == DTYPE_BF16 ? f32_round_bf16(entry) : entry;
}

void rope_tables(
    const config_t *config, dtype_t mode, size_t first, size_t n, void *cosines, void *sines)
{
    float inv_freq[MAX_HALF];
    size_t half = size_min(config->head_dim / 2, MAX_HALF);
    double factor = rope_frequencies(config, inv_freq);
    for (size_t p = 0; p < n; p++) {
        for (size_t i = 0; i < half; i++) {
            size_t at = p * half + i;
            /* bf16 follows the reference, whose angle is a float; the others are as near to the
             * truth as they can be. */
            double angle = mode == DTYPE_BF16 ? (double)((float)(first + p) * inv_freq[i])
                                              : (double)(first + p) * (double)inv_freq[i];
            double cosine = Sleef_cinz_cosd1_u10purec(angle),
                   sine = Sleef_cinz_sind1_u10purec(angle);
            if (mode == DTYPE_F64) {
                ((double *)cosines)[at] = cosine * factor;
                ((double *)sines)[at] = sine * factor;
            } else {
                ((float *)cosines)[at] = f32_entry(cosine, (float)factor, mode);
                ((float *)sines)[at] = f32_entry(sine, (float)factor, mode);
            }
        }
    }
}
