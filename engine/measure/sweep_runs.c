#include "engine/measure/sweep_runs.h"

#include "engine/measure/predict.h"

bench_options_t sweep_run(const bench_options_t *each, size_t batch, size_t context)
{
    bench_options_t run = *each;
    run.batch = batch;
    run.context = context;
    run.prompt_tokens = each->prompt_tokens != 0 ? each->prompt_tokens : context;
    return run;
}

void sweep_runs_list(sweep_runs_t *runs, const sweep_t *sweep, const sweep_part_t *base,
    const sweep_part_t *part, const bench_options_t *each)
{
    runs->n = 0;
    for (size_t i = 0; i < sweep->contexts.n * sweep->batches.n * SWEEP_SCALINGS; i++) {
        sweep_scaling_t scaling = (sweep_scaling_t)(i % SWEEP_SCALINGS);
        size_t b = i / SWEEP_SCALINGS % sweep->batches.n;
        size_t c = i / SWEEP_SCALINGS / sweep->batches.n, same = 0;
        size_t batch = sweep_batch(base, part, scaling, sweep->batches.items[b]);
        if (!sweep->scalings[scaling] || batch == 0)
            continue;
        while (same < runs->n && (runs->cells[same].batch != b || runs->cells[same].context != c ||
                                     runs->runs[same].batch != batch))
            same++;
        if (same == runs->n) {
            runs->runs[runs->n] = sweep_run(each, batch, sweep->contexts.items[c]);
            runs->cells[runs->n++] = (sweep_cell_t){.batch = b, .context = c};
        }
        runs->cells[same].scalings[scaling] = true;
    }
}

static const struct {
    const char *name;
    size_t offset;
} times[SWEEP_TIMES] = {[SWEEP_MATRIX] = {"matrix", offsetof(bench_split_t, matrix)},
    [SWEEP_ATTENTION] = {"attention", offsetof(bench_split_t, attention)},
    [SWEEP_ELEMENTWISE] = {"elementwise", offsetof(bench_split_t, elementwise)},
    [SWEEP_EXCHANGE] = {"exchange", offsetof(bench_split_t, exchange)},
    [SWEEP_WAITING] = {"waiting", offsetof(bench_split_t, waiting)},
    [SWEEP_SAMPLING] = {"sampling", offsetof(bench_split_t, sampling)}};

const char *sweep_time_name(sweep_time_t time)
{
    return times[time].name;
}

sweep_phase_t sweep_phase(const bench_report_t *report, bench_phase_t phase,
    const plan_model_t *model, plan_combine_t combine, size_t ranks_per_node, double rows,
    double draws)
{
    sweep_phase_t result = {.rank_bytes = 0};
    fail_t ignored = {0};
    plan_t plan;
    for (size_t t = 0; t < SWEEP_TIMES; t++) {
        double sum = 0;
        for (size_t r = 0; r < report->n_ranks; r++) {
            const bench_split_t *split = &report->splits[(size_t)phase * report->n_ranks + r];
            double value = *(const double *)((const char *)split + times[t].offset);
            sum += value;
            result.max_s[t] = value > result.max_s[t] ? value : result.max_s[t];
        }
        result.mean_s[t] = sum / (double)report->n_ranks;
    }
    if (plan_open(&plan, model, combine, report->n_ranks, &ignored) == 0) {
        predict_bytes(&plan, ranks_per_node, rows, draws, &result.rank_bytes, &result.node_bytes);
        plan_close(&plan);
    }
    double bytes = result.node_bytes > 0 ? result.node_bytes : result.rank_bytes;
    if (result.mean_s[SWEEP_EXCHANGE] > 0 && bytes > 0)
        result.bytes_per_s = bytes / result.mean_s[SWEEP_EXCHANGE];
    return result;
}
