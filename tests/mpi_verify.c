/* `choir verify` in process: the demo model against the demo reference, at any number of ranks; and
 * references in which something was changed, which has to be found and named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/verify/verify.h"

#define MODEL CHOIR_SOURCE_DIR "/configs/demo"
#define REFERENCE CHOIR_SOURCE_DIR "/tests/golden/demo-reference.safetensors"

#define AVX2_REFERENCE CHOIR_SOURCE_DIR "/tests/golden/demo-reference-avx2.safetensors"

#define MAKES_NAN 0x4280 /* of the 0x3d54 that the first o_proj of the reference is */

typedef struct suite {
    comm_t *comm;
    char altered[64]; /* path of the altered copy */
    char *bytes;      /* of the reference, on rank 0 */
    size_t n_bytes;
    size_t n_passed, n_failed;
} suite_t;

static void expect(suite_t *suite, bool condition, const char *sentence)
{
    if (comm_rank(suite->comm) != 0)
        return;
    suite->n_passed += condition;
    suite->n_failed += !condition;
    if (!condition)
        printf("FAILED at %d ranks: %s\n", comm_size(suite->comm), sentence);
}

static verify_options_t options_for(const char *reference)
{
    return (verify_options_t){.model_dir = MODEL,
        .reference = reference,
        .attentions = {true, true},
        .isolated = true,
        .chained = true,
        .threads = 1};
}

static report_t *run(suite_t *suite, const verify_options_t *options)
{
    fail_t fail = {0};
    report_t *report;
    verify_run(&report, suite->comm, options, &fail);
    if (fail.status != 0)
        printf("FAILED: %s\n", fail.message);
    expect(suite, fail.status == 0, "verification runs");
    return report;
}

/* Elements of all tensors of one kind, in the tables' sense. */
static uint64_t n_reference_elements(const reference_t *reference, attention_t a, size_t kind)
{
    uint64_t n = 0;
    for (size_t i = 0; i < checkpoint_count(reference->file); i++) {
        const checkpoint_tensor_t *tensor = checkpoint_at(reference->file, i);
        reference_place_t place;
        if (reference_parse_name(tensor->name, &place) && place.attention == a &&
            place.kind == kind)
            n += tensor->size_bytes / dtype_bytes(tensor->dtype);
    }
    return n;
}

/* Every element of the reference is compared once, but for keys and values that ranks share. */
static void check_coverage(suite_t *suite, const report_t *report, const char *path)
{
    reference_t reference;
    fail_t fail = {0};
    if (comm_rank(suite->comm) != 0)
        return;
    expect(suite, reference_open(&reference, path, &fail) == 0, "the reference opens");
    for (size_t a = 0; a < REFERENCE_ATTENTIONS; a++)
        for (size_t kind = 0; kind < KIND_COUNT; kind++) {
            uint64_t all = n_reference_elements(&reference, (attention_t)a, kind);
            uint64_t chained = report->totals.cells[REPORT_CHAINED + a][kind].n_values;
            uint64_t logits = report->totals.cells[REPORT_LOGITS + a][kind].n_values;
            bool shared =
                kind == COMPONENT_K_PROJ || kind == COMPONENT_V_PROJ || kind == COMPONENT_K_ROPE;
            if (kind >= COMPONENT_LOGITS)
                expect(suite, logits == all, reference_kind_name(kind));
            else
                expect(suite, shared ? chained >= all : chained == all, reference_kind_name(kind));
        }
    reference_close(&reference);
}

/* sentence: what is shown */
static void check_demo(suite_t *suite, const char *reference, const char *sentence)
{
    verify_options_t options = options_for(reference);
    options.threads = 2;
    report_t *report = run(suite, &options);
    if (report == NULL)
        return;
    char summary[512] = "";
    if (comm_rank(suite->comm) == 0 && !report_passes(report)) {
        report_summary(report, summary, sizeof summary);
        printf("%s\n", summary);
    }
    expect(suite, comm_rank(suite->comm) != 0 || report_passes(report), sentence);
    check_coverage(suite, report, reference);
    report_close(report);
}

/* An order that is asked for is taken, whatever the reference's host has. */
static void check_another_order(suite_t *suite)
{
    verify_options_t options = options_for(AVX2_REFERENCE);
    options.has_order = true;
    options.order = ORDER_TORCH;
    options.chained = false;
    options.attentions[ATTENTION_SDPA] = false;
    options.skip_digest = true;
    report_t *report = run(suite, &options);
    if (report == NULL)
        return;
    expect(suite, comm_rank(suite->comm) != 0 || !report_passes(report),
        "the order torch has other bits than a CPU with AVX2 only");
    report_close(report);
}

static void check_layers(suite_t *suite)
{
    verify_options_t options = options_for(REFERENCE);
    options.layers = "5";
    options.isolated = false;
    options.attentions[ATTENTION_SDPA] = false;
    options.skip_digest = true;
    report_t *report = run(suite, &options);
    if (report == NULL)
        return;
    expect(suite, !report_row_used(report, REPORT_ISOLATED, COMPONENT_O_PROJ),
        "without --isolated nothing is isolated");
    expect(suite,
        comm_rank(suite->comm) != 0 ||
            report->shapes[REPORT_CHAINED][COMPONENT_O_PROJ].n_tensors == 6,
        "only layer 5's tensors of three prompts and decode steps are compared");
    expect(suite, !report_row_used(report, REPORT_CHAINED + 1, COMPONENT_ATTN_OUTPUT),
        "sdpa is not compared when it is not asked for");
    report_close(report);
}

/* ---- Altered references ---------------------------------------------------------------------- */

static void read_reference(suite_t *suite)
{
    fail_t fail = {0};
    if (comm_rank(suite->comm) == 0)
        file_read(REFERENCE, (size_t)1 << 30, &suite->bytes, &suite->n_bytes, &fail);
    expect(suite, fail.status == 0, "the reference can be read");
}

/* Collective. Writes a copy of the reference in which one bf16 value is another: its bits
 * XOR flip. */
static void write_altered(suite_t *suite, const char *tensor, size_t element, uint16_t flip)
{
    fail_t fail = {0};
    if (comm_rank(suite->comm) == 0) {
        reference_t reference;
        expect(suite, reference_open(&reference, REFERENCE, &fail) == 0, "the reference opens");
        const checkpoint_tensor_t *t = checkpoint_find(reference.file, tensor);
        size_t at = (size_t)t->offset_bytes + 2 * element;
        suite->bytes[at] = (char)(suite->bytes[at] ^ (flip & 0xff));
        suite->bytes[at + 1] = (char)(suite->bytes[at + 1] ^ (flip >> 8));
        FILE *file = fopen(suite->altered, "wb");
        expect(suite,
            file != NULL && fwrite(suite->bytes, 1, suite->n_bytes, file) == suite->n_bytes,
            "a copy can be written");
        if (file != NULL)
            fclose(file);
        suite->bytes[at] = (char)(suite->bytes[at] ^ (flip & 0xff));
        suite->bytes[at + 1] = (char)(suite->bytes[at + 1] ^ (flip >> 8));
        reference_close(&reference);
    }
    comm_barrier(suite->comm);
}

/* One value of a tensor is wrong: the tables name it, and no other component. */
static void check_altered(suite_t *suite, const char *tensor, report_table_t table, size_t kind,
    size_t element, uint16_t flip)
{
    write_altered(suite, tensor, element, flip);
    verify_options_t options = options_for(suite->altered);
    options.skip_digest = true;
    report_t *report = run(suite, &options);
    if (report == NULL)
        return;
    const report_divergence_t *first = &report->totals.first[table];
    expect(suite, comm_rank(suite->comm) != 0 || !report_passes(report), tensor);
    expect(suite,
        comm_rank(suite->comm) != 0 ||
            (first->found && first->place.kind == kind && first->index == element),
        tensor);
    for (size_t other = 0; other < KIND_COUNT; other++)
        if (other != kind)
            expect(suite, compare_passes(&report->totals.cells[REPORT_CHAINED][other], 0),
                reference_kind_name(other));
    if (flip == MAKES_NAN)
        expect(suite, comm_rank(suite->comm) != 0 || report->totals.nonfinite[table].found,
            "infinities and NaN of the reference are reported");
    report_close(report);
}

static void check_alterations(suite_t *suite)
{
    read_reference(suite);
    check_altered(suite, "prompt.2.layer.5.gate_proj", REPORT_ISOLATED, COMPONENT_GATE_PROJ,
        3 * 512 + 511, 1);
    check_altered(suite, "prompt.2.layer.0.attn_weights", REPORT_ISOLATED, COMPONENT_ATTN_WEIGHTS,
        17 * 17 + 16, 0x3f80); /* a hidden key has weight */
    check_altered(suite, "prompt.1.decode.layer.5.attn_output", REPORT_ISOLATED,
        COMPONENT_ATTN_OUTPUT, 191, 4);
    check_altered(suite, "prompt.2.sdpa.layer.0.attn_output", REPORT_ISOLATED + ATTENTION_SDPA,
        COMPONENT_ATTN_OUTPUT, 192, 1);
    check_altered(
        suite, "prompt.1.stepwise_logits", REPORT_LOGITS, KIND_STEPWISE_LOGITS, 2048 + 1700, 1);
    check_altered(suite, "prompt.2.final_norm", REPORT_ISOLATED, COMPONENT_FINAL_NORM, 7, 1);
    check_altered(
        suite, "prompt.0.layer.0.o_proj", REPORT_ISOLATED, COMPONENT_O_PROJ, 0, MAKES_NAN);
    free(suite->bytes);
}

int main(int argc, char **argv)
{
    fail_t fail = {0};
    suite_t suite = {0};
    if (comm_start(&argc, &argv, &fail) != 0 ||
        comm_open_world(&suite.comm, COMM_AUTO, &fail) != 0) {
        fprintf(stderr, "mpi_verify: %s\n", fail.message);
        comm_abort(1);
    }
    strcpy(suite.altered, P_tmpdir "/choir-verify-XXXXXX");
    if (comm_rank(suite.comm) == 0) {
        int fd = mkstemp(suite.altered);
        expect(&suite, fd >= 0, "a temporary file can be made");
        close(fd);
    }
    comm_bcast(suite.comm, suite.altered, sizeof suite.altered);
    check_demo(&suite, REFERENCE, "the demo model equals its reference in every bit");
    check_demo(&suite, AVX2_REFERENCE,
        "the demo model equals its reference of a CPU with AVX2 only in every bit");
    check_another_order(&suite);
    check_layers(&suite);
    check_alterations(&suite);
    bool root = comm_rank(suite.comm) == 0;
    if (root) {
        unlink(suite.altered);
        printf("%zu passed, %zu failed\n", suite.n_passed, suite.n_failed);
    }
    comm_close(suite.comm);
    comm_stop();
    return suite.n_failed != 0;
}
