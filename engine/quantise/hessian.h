/* Sums X^T X of a layer's inputs, and their factors, of which each node has one copy. Internal to engine/quantise/.
 *
 * The lower triangle is cut into bands of rows, and each band belongs to a rank. A band's sum over the rows of X is a
 * function of X and of the calls that add to it, so its bits do not depend on who owns it. */
#ifndef CHOIR_QUANTISE_HESSIAN_H
#define CHOIR_QUANTISE_HESSIAN_H

#include "comm/comm.h"
#include "comm/shared.h"
#include "engine/base/team.h"
#include "engine/quantise/gptq.h"

typedef struct hessian {
    comm_t *comm;
    gptq_factor_t factor; /* the same memory on all ranks of a node, if they can share */
    comm_shared_t *shared;
    void *own; /* where they cannot */
    size_t bytes, n_bands;
    int *owners;    /* [n_bands] */
    size_t *counts; /* [ranks] bytes of an exchange, 0 between */
} hessian_t;

/* Collective. For sums over n inputs. FAIL_MEMORY. */
int hessian_open(hessian_t *hessian, comm_t *comm, size_t n, fail_t *fail);
void hessian_close(hessian_t *hessian);

/* Local. Sets this rank's bands to 0. The factor of before is not read any more. */
void hessian_clear(const hessian_t *hessian);
/* Local. Adds x^T x to this rank's bands, all threads of the team. x: [n_rows, n], the same on all ranks */
void hessian_add(
    const hessian_t *hessian, const blas_t *blas, team_t *team, size_t n_rows, const float *x);
/* Collective. Every node gets all bands. */
void hessian_exchange(const hessian_t *hessian);
/* Local. Who factorises, after the exchange: the ranks of a node together, or each for itself where they share no
 * memory. wait and context: of gptq_team_t, for all ranks of comm */
gptq_team_t hessian_team(const hessian_t *hessian, void (*wait)(void *context), void *context);

#endif
