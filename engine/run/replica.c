#include "engine/run/replica.h"

int replica_open(replica_t *r, comm_t *comm, const replica_options_t *options, fail_t *fail)
{
    int each = comm_size(comm) / (int)options->n_replicas, rank = comm_rank(comm);
    engine_options_t engine = options->engine;
    engine.all_replicas = engine.weight_sharers = NULL;
    *r = (replica_t){.comm = comm};
    if (options->n_replicas == 1)
        return engine_open(&r->engine, comm, &engine, fail);
    r->comm = NULL;
    r->owns_comm = true;
    if (comm_split(comm, rank / each, options->path, &r->comm, fail) != 0)
        return fail->status;
    if (!options->own_weights) {
        if (comm_split(comm, rank % each, COMM_MPI, &r->weight_sharers, fail) != 0)
            return fail->status;
        engine.all_replicas = comm;
        engine.weight_sharers = r->weight_sharers;
    }
    engine_open(&r->engine, r->comm, &engine, fail);
    return comm_agree(comm, fail);
}

void replica_close(replica_t *r)
{
    engine_close(r->engine);
    comm_close(r->weight_sharers);
    if (r->owns_comm)
        comm_close(r->comm);
    *r = (replica_t){0};
}
