/* An emulator of the orders of operations of PyTorch's CPU kernels, for facts.py.
 *
 * It is written for the eye, not for speed, and shares no code with the engine, so that the two can
 * be wrong only independently. Every function computes in f32 one operation at a time; compile it
 * with -ffp-contract=off. bf16 values are passed as their 16 bits. Products of two bf16 values are
 * exact in f32, so "c + x * w" needs no fused operation. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

static float widen(bf16 value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

static bf16 narrow(float value) /* nearest even */
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static float rounded(float value)
{
    return widen(narrow(value));
}

static float *floats(size_t count)
{
    return calloc(count ? count : 1, sizeof(float));
}

static long min_long(long a, long b)
{
    return a < b ? a : b;
}

/* Matrix products ----------------------------------------------------------- */

/* The leaves of one row as chains over pairs, odd element first, for all columns at once.
 * sums: [leaves, N], written. x: [K]. wt: [K, N]. */
static void leaf_sums(float *sums, const float *x, const float *wt, long N, long K, long leaf)
{
    for (long at = 0, number = 0; at < K; at += leaf, number++) {
        float *c = sums + number * N;
        memset(c, 0, (size_t)N * sizeof(float));
        for (long k = at; k < min_long(K, at + leaf); k += 2) {
            if (k + 1 < K)
                for (long n = 0; n < N; n++)
                    c[n] = c[n] + x[k + 1] * wt[(k + 1) * N + n];
            for (long n = 0; n < N; n++)
                c[n] = c[n] + x[k] * wt[k * N + n];
        }
    }
}

/* y = x W^T + bias. x: [M, K]. w: [N, K]. bias: [N] or NULL. y: [M, N]. groups: 1, or into how many
 * groups the leaves are shared out. */
void linear(bf16 *y, const bf16 *x, const bf16 *w, const bf16 *bias, long M, long N, long K,
    long leaf, long groups)
{
    long leaves = (K + leaf - 1) / leaf;
    float *wt = floats((size_t)K * N), *row = floats(K), *sums = floats((size_t)leaves * N);
    for (long n = 0; n < N; n++)
        for (long k = 0; k < K; k++)
            wt[k * N + n] = widen(w[n * K + k]);
    for (long m = 0; m < M; m++) {
        for (long k = 0; k < K; k++)
            row[k] = widen(x[m * K + k]);
        leaf_sums(sums, row, wt, N, K, leaf);
        for (long n = 0; n < N; n++) {
            float total = 0;
            for (long g = 0, next = 0; g < groups; g++) {
                long count = leaves / groups + (g < leaves % groups);
                float group = sums[next * N + n];
                for (long i = 1; i < count; i++)
                    group = group + sums[(next + i) * N + n];
                next += count;
                total = g ? total + group : group;
            }
            y[m * N + n] = narrow(bias ? total + widen(bias[n]) : total);
        }
    }
    free(wt), free(row), free(sums);
}

/* AMX's tile products: c and x[0 .. K) times w, w[i] at i * stride. Of every 32 inputs one chain
 * over the even ones and one over the odd ones; their sum is added to c. Denormals are zero. */
static float amx_chain(float c, const float *x, const float *w, long stride, long K)
{
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);
    for (long k = 0; k < K; k += 32) {
        float even = 0, odd = 0;
        for (long i = k; i < min_long(K, k + 32); i += 2) {
            even = fmaf(x[i], w[i * stride], even);
            odd = i + 1 < K ? fmaf(x[i + 1], w[(i + 1) * stride], odd) : odd;
        }
        c = c + (even + odd);
    }
    _mm_setcsr(saved);
    return c;
}

/* linear in the order of Choir's --dot amx: one chain through all of K. */
void linear_amx(bf16 *y, const bf16 *x, const bf16 *w, const bf16 *bias, long M, long N, long K)
{
    float *row = floats(K), *weights = floats((size_t)N * K);
    for (long i = 0; i < N * K; i++)
        weights[i] = widen(w[i]);
    for (long m = 0; m < M; m++) {
        for (long k = 0; k < K; k++)
            row[k] = widen(x[m * K + k]);
        for (long n = 0; n < N; n++) {
            float sum = amx_chain(0, row, weights + n * K, 1, K);
            y[m * N + n] = narrow(bias ? sum + widen(bias[n]) : sum);
        }
    }
    free(row), free(weights);
}

/* RMSNorm ------------------------------------------------------------------- */

static long ceil_log2(long value)
{
    long log = 0;
    while ((1L << log) < value)
        log++;
    return log;
}

float sum_of_squares(const float *x, long n)
{
    float level[4][4][8] = {{{0}}}; /* accumulator, level, lane */
    long vectors = n / 8, rounds = vectors / 4;
    long power = ceil_log2(rounds) / 4 > 4 ? ceil_log2(rounds) / 4 : 4;
    for (long r = 0; r < rounds; r++) {
        for (int j = 0; j < 4; j++)
            for (int lane = 0; lane < 8; lane++) {
                float value = x[(4 * r + j) * 8 + lane];
                level[j][0][lane] += value * value;
            }
        for (int up = 1; up < 4; up++) {
            if ((r + 1) % (1L << (power * up)) != 0)
                break;
            for (int j = 0; j < 4; j++)
                for (int lane = 0; lane < 8; lane++) {
                    level[j][up][lane] += level[j][up - 1][lane];
                    level[j][up - 1][lane] = 0;
                }
        }
    }
    for (int j = 0; j < 4; j++)
        for (int up = 1; up < 4; up++)
            for (int lane = 0; lane < 8; lane++)
                level[j][0][lane] += level[j][up][lane];
    for (long v = rounds * 4; v < vectors; v++)
        for (int lane = 0; lane < 8; lane++)
            level[0][0][lane] += x[v * 8 + lane] * x[v * 8 + lane];
    for (int j = 1; j < 4; j++)
        for (int lane = 0; lane < 8; lane++)
            level[0][0][lane] += level[j][0][lane];
    float sum = 0;
    for (long i = vectors * 8; i < n; i++)
        sum += x[i] * x[i];
    for (int lane = 0; lane < 8; lane++)
        sum += level[0][0][lane];
    return sum;
}

/* x: [rows, n]. w: [n]. y: [rows, n]. means: [rows], the f32 means of the squares. */
void rms_norm(bf16 *y, float *means, const bf16 *x, const bf16 *w, long rows, long n, float eps)
{
    float *row = floats(n);
    for (long m = 0; m < rows; m++) {
        for (long i = 0; i < n; i++)
            row[i] = widen(x[m * n + i]);
        means[m] = sum_of_squares(row, n) / (float)n;
        float v = means[m] + eps, r = 1.0f / sqrtf(v);
        for (long i = 0; i < n; i++)
            y[m * n + i] = narrow(widen(w[i]) * rounded(row[i] * r));
    }
    free(row);
}

/* Rotary embedding ------------------------------------------------------------ */

/* x, y: [rows, heads, d]. cosine, sine: [rows, d]. */
void rotate(
    bf16 *y, const bf16 *x, const bf16 *cosine, const bf16 *sine, long rows, long heads, long d)
{
    for (long m = 0; m < rows; m++)
        for (long h = 0; h < heads; h++)
            for (long i = 0; i < d; i++) {
                const bf16 *head = x + (m * heads + h) * d;
                float other = i < d / 2 ? -widen(head[i + d / 2]) : widen(head[i - d / 2]);
                float a = rounded(widen(head[i]) * widen(cosine[m * d + i]));
                float b = rounded(other * widen(sine[m * d + i]));
                y[(m * heads + h) * d + i] = narrow(a + b);
            }
}

/* Elementwise ----------------------------------------------------------------- */

static float exp_u10(float x)
{
    float q = rintf(x * 1.44269504f);
    float s = fmaf(q, -0.693145751953125f, x);
    s = fmaf(q, -1.428606765330187045e-06f, s);
    float u = 0.000198527617612853646278381f;
    u = fmaf(u, s, 0.00139304355252534151077271f);
    u = fmaf(u, s, 0.00833336077630519866943359f);
    u = fmaf(u, s, 0.0416664853692054748535156f);
    u = fmaf(u, s, 0.166666671633720397949219f);
    u = fmaf(u, s, 0.5f);
    float y = 1 + fmaf(s * s, u, s);
    if (x < -104)
        return 0;
    if (x > 104)
        return INFINITY;
    int whole = (int)q, half = whole >> 1;
    return ldexpf(ldexpf(y, half), whole - half);
}

void exponentials(float *y, const float *x, long count)
{
    for (long i = 0; i < count; i++)
        y[i] = exp_u10(x[i]);
}

void silu(bf16 *y, const bf16 *x, long count)
{
    for (long i = 0; i < count; i++) {
        float g = widen(x[i]);
        y[i] = narrow(g / (1.0f + exp_u10(-g)));
    }
}

/* Eager attention ---------------------------------------------------------------- */

/* Softmax of each row in f32; x, y: [rows, T]. */
void softmax(float *y, const float *x, long rows, long T)
{
    for (long m = 0; m < rows; m++) {
        const float *in = x + m * T;
        float *out = y + m * T, max = -INFINITY, sum = 0;
        for (long t = 0; t < T; t++)
            max = in[t] > max ? in[t] : max;
        for (long t = 0; t < T; t++)
            out[t] = exp_u10(in[t] - max);
        if (T < 16) {
            for (long t = 0; t < T; t++)
                sum += out[t];
        } else {
            float lanes[16] = {0};
            for (long t = 0; t < T; t++)
                lanes[t % 16] += out[t];
            for (int half = 8; half; half /= 2)
                for (int i = 0; i < half; i++)
                    lanes[i] += lanes[i + half];
            sum = lanes[0];
        }
        float inverse = 1.0f / sum;
        for (long t = 0; t < T; t++)
            out[t] = out[t] * inverse;
    }
}

static float fold(float *lanes, int count)
{
    for (int half = count / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

/* A short dot product of the small case that is not plain. */
static float small_dot(const float *a, const float *b, long count)
{
    float wide[8][8] = {{0}}, tail[8] = {0}, result = 0;
    long k = 0;
    for (; k + 64 <= count; k += 64)
        for (int i = 0; i < 64; i++)
            wide[i / 8][i % 8] += a[k + i] * b[k + i];
    for (int half = 4; half; half /= 2)
        for (int j = 0; j < half; j++)
            for (int lane = 0; lane < 8; lane++)
                wide[j][lane] += wide[j + half][lane];
    result = fold(wide[0], 8);
    for (; k + 16 <= count; k += 16)
        for (int i = 0; i < 16; i++)
            tail[i % 8] += a[k + i] * b[k + i];
    result += fold(tail, 8);
    for (; k < count; k++)
        result += a[k] * b[k];
    return result;
}

/* The other product of the small case: k goes to accumulator k mod 4, what is left over to 0. */
static float small_column(const float *a, const float *b, long stride, long count)
{
    float sums[4] = {0};
    long k = 0;
    for (; k + 4 <= count; k += 4)
        for (int j = 0; j < 4; j++)
            sums[j] += a[k + j] * b[(k + j) * stride];
    for (; k < count; k++)
        sums[0] += a[k] * b[k * stride];
    return ((sums[0] + sums[1]) + sums[2]) + sums[3];
}

/* One of eager attention's two batched products. a: [H, M, K]. y: [H, M, N].
 * b: [H, N, K] for scores (columns = 0), [H, K, N] for outputs (columns = 1).
 * Few products (H * M * N * K) take orders of their own. */
void batched(
    bf16 *y, const bf16 *a, const bf16 *b, long H, long M, long N, long K, int columns, long leaf)
{
    int small = H * M * N * K <= 4096, plain = M * N * K < 400;
    float *x = floats(K), *other = floats((size_t)N * K),
          *sums = floats((size_t)N * (K / leaf + 1));
    for (long h = 0; h < H; h++) {
        for (long n = 0; n < N; n++) /* [K, N], or [N, K] for the small scores */
            for (long k = 0; k < K; k++) {
                float value = widen(b[h * N * K + (columns ? k * N + n : n * K + k)]);
                other[small && !columns ? n * K + k : k * N + n] = value;
            }
        for (long m = 0; m < M; m++) {
            for (long k = 0; k < K; k++)
                x[k] = widen(a[(h * M + m) * K + k]);
            if (!small)
                leaf_sums(sums, x, other, N, K, leaf);
            for (long n = 0; n < N; n++) {
                float total = 0;
                const float *w = columns ? other + n : other + n * K;
                long stride = columns ? N : 1;
                if (small && plain)
                    for (long k = 0; k < K; k++)
                        total += x[k] * w[k * stride];
                else if (small)
                    total = columns ? small_column(x, w, N, K) : small_dot(x, w, K);
                else
                    for (long i = 0; i * leaf < K; i++)
                        total = i ? total + sums[i * N + n] : sums[n];
                y[(h * M + m) * N + n] = narrow(total);
            }
        }
    }
    free(x), free(other), free(sums);
}

/* SDPA ------------------------------------------------------------------------- */

static float fast_exp(float x)
{
    if (x < -0x1.5d58ap+6f)
        return 0;
    float y = x * 0x1.715476p+0f;
    float f = y - floorf(y);
    float r = fmaf(f, -0.079204240219773236f, -0.22433836478672356f);
    r = fmaf(f, r, 0.30354260500649682f);
    r = fmaf(f, r, 0.00010703434948458272f);
    float t = fmaf(0x1p+23f, y - r, 0x1.fcp+29f);
    int32_t bits = (int32_t)t;
    memcpy(&y, &bits, 4);
    return y;
}

static float lanes4(const float *q, const float *k, long d)
{
    float lanes[4] = {0};
    for (long i = 0; i < d; i++)
        lanes[i % 4] += q[i] * k[i];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

static float lanes8(const float *q, const float *k, long d)
{
    float lanes[8] = {0};
    for (long i = 0; i < d; i++)
        lanes[i % 8] += q[i] * k[i];
    return fold(lanes, 8);
}

/* Score of key j of a block of b keys for a query block of n rows. */
static float score(const float *q, const float *k, long d, long n, long b, long j, int amx)
{
    if (n >= 4 && b >= 12 && amx)
        return amx_chain(0, q, k, 1, d);
    if (n >= 4 && b >= 12) {
        float sum = 0;
        for (long i = 0; i < d; i++)
            sum += q[i] * k[i];
        return sum;
    }
    if (n == 1 || b == 1 || j < b / 4 * 4)
        return lanes4(q, k, d);
    return lanes8(q, k, d);
}

/* o += p v for one row: o: [d], p: [b], v: [b, d]; docs/pytorch-orders.md 10.5 gives the cases. */
static void values(float *o, const float *p, const float *v, long d, long n, long b, int first,
    long odd_outputs, int amx)
{
    if (n >= 4 && amx) {
        for (long i = 0; i < d; i++)
            o[i] = amx_chain(o[i], p, v + i, d, b);
        return;
    }
    if (n >= 4) {
        long leaf = b <= 192 ? b : b < 384 ? b / 2 : 192;
        for (long i = 0; i < d; i++)
            for (long at = 0; at < b; at += leaf) {
                float sum = 0;
                for (long j = at; j < min_long(b, at + leaf); j++)
                    sum += p[j] * v[j * d + i];
                o[i] = first && at == 0 ? sum : o[i] + sum;
            }
        return;
    }
    for (long i = 0; i < d; i++) {
        long j = 0;
        if (n == 1) {
            for (; j + 4 <= b; j += 4) {
                const float *x = v + j * d + i;
                o[i] +=
                    (p[j] * x[0] + p[j + 2] * x[2 * d]) + (p[j + 1] * x[d] + p[j + 3] * x[3 * d]);
            }
            for (long k = b - 1; k >= j; k--)
                o[i] += p[k] * v[k * d + i];
            continue;
        }
        for (; i < odd_outputs && j + 8 <= b; j += 8) {
            const float *x = v + j * d + i;
            for (long k = 0; k < 4; k++)
                o[i] += p[j + k] * x[k * d];
            o[i] += ((p[j + 4] * x[4 * d] + p[j + 5] * x[5 * d]) + p[j + 6] * x[6 * d]) +
                    p[j + 7] * x[7 * d];
        }
        for (; j < b; j++)
            o[i] += p[j] * v[j * d + i];
    }
}

typedef struct {
    long S, T, d;
    float scale;
    int causal;  /* keys after T - S + row are masked */
    long window; /* 0, or keys that a row sees, its own the last; causal */
    long worker; /* the thread that has this head: it matters to blocks of 2 or 3 rows */
    int amx; /* blocks of 4 rows and more: AMX's products, without leaves, as Choir's --dot amx */
    long lanes; /* of PyTorch's own kernel: 16, or 8 on CPUs with AVX2 only */
} sdpa_t;

/* One query row of one head. o: [d]. k, v: [T, d]. Returns the log of the sum of exponentials. */
static float sdpa_row(const sdpa_t *call, float *o, const float *q, const float *k, const float *v,
    long row, long n, float *s, float *e)
{
    float max = -INFINITY, sum = 0;
    long S = call->S, T = call->T, d = call->d;
    long last = call->causal ? T - S + row : T - 1; /* the last key that this row sees */
    long from = call->window > 0 && last >= call->window ? last + 1 - call->window : 0;
    long w = call->worker, room = (w + 1) * S * (min_long(T, 512) + 2) + w * S * d;
    long odd = n < 4 && S > 1 && S < 4 ? room % 4 : 0; /* how far a buffer is from alignment */
    memset(o, 0, (size_t)d * sizeof(float));
    for (long at = 0; at < T && at <= last; at += 512) {
        long b = min_long(512, T - at);
        long whole = b / call->lanes * call->lanes; /* keys in whole vectors */
        float top = max, lanes[2][16] = {{0}}, block;
        for (long j = 0; j < b; j++) {
            s[j] = score(q, k + (at + j) * d, d, n, b, j, call->amx) * call->scale;
            if (at + j > last || at + j < from)
                s[j] = -INFINITY;
            top = s[j] > top ? s[j] : top;
        }
        if (top == -INFINITY) /* only masked keys so far: zeros are added to zeros */
            continue;
        for (long j = 0; j < b; j++)
            e[j] = j < whole ? fast_exp(s[j] - top) : (float)exp((double)(s[j] - top));
        for (long j = 0; j < whole; j++)
            lanes[j / call->lanes % 2][j % call->lanes] += e[j];
        for (int i = 0; i < call->lanes; i++)
            lanes[0][i] += lanes[1][i];
        block = fold(lanes[0], (int)call->lanes);
        for (long j = whole; j < b; j++)
            block += e[j];
        float c = expf(max - top);
        sum = fmaf(c, sum, block);
        if (at > 0)
            for (long i = 0; i < d; i++)
                o[i] = o[i] * c;
        for (long j = 0; j < b; j++)
            e[j] = rounded(e[j]);
        values(o, e, v + at * d, d, n, b, at == 0, odd && b >= 8 ? 4 - odd : 0, call->amx);
        max = top;
    }
    float z = 1.0f / sum;
    for (long i = 0; i < d; i++)
        o[i] = o[i] * z;
    return max + logf(sum);
}

/* Scaled dot product attention; window: 0, or as in sdpa_t; amx: in the order of Choir's --dot amx; lanes: as
 * there. q, y: [H, S, d]. k, v: [KV, T, d]. lse: [H, S]. */
static void run_sdpa(bf16 *y, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, long H,
    long KV, long S, long T, long d, float scale, int causal, long threads, long window, int amx,
    long lanes)
{
    sdpa_t call = {S, T, d, scale, causal, window, 0, amx, lanes};
    long block = S >= 768 ? 256 : S >= 192 ? 64 : 32;
    float *keys = floats(T * d), *vals = floats(T * d), *row = floats(d), *o = floats(d);
    float *s = floats(512), *e = floats(512);
    for (long h = 0; h < H; h++) {
        long from = h / (H / KV) * T * d;
        call.worker = h / ((H + threads - 1) / threads);
        for (long i = 0; i < T * d; i++) {
            keys[i] = widen(k[from + i]);
            vals[i] = widen(v[from + i]);
        }
        for (long m = 0; m < S; m++) {
            long n = min_long(block, S - m / block * block);
            for (long i = 0; i < d; i++)
                row[i] = widen(q[(h * S + m) * d + i]);
            lse[h * S + m] = sdpa_row(&call, o, row, keys, vals, m, n, s, e);
            for (long i = 0; i < d; i++)
                y[(h * S + m) * d + i] = narrow(o[i]);
        }
    }
    free(keys), free(vals), free(row), free(o), free(s), free(e);
}

void sdpa(bf16 *y, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, long H, long KV, long S,
    long T, long d, float scale, int causal, long threads, long window)
{
    run_sdpa(y, lse, q, k, v, H, KV, S, T, d, scale, causal, threads, window, 0, 16);
}

void sdpa_amx(bf16 *y, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, long H, long KV,
    long S, long T, long d, float scale, int causal, long threads, long window)
{
    run_sdpa(y, lse, q, k, v, H, KV, S, T, d, scale, causal, threads, window, 1, 16);
}

void sdpa_avx2(bf16 *y, float *lse, const bf16 *q, const bf16 *k, const bf16 *v, long H, long KV,
    long S, long T, long d, float scale, int causal, long threads, long window)
{
    run_sdpa(y, lse, q, k, v, H, KV, S, T, d, scale, causal, threads, window, 0, 8);
}
