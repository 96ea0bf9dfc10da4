/* Shared by the two halves of the parser. */
#ifndef CHOIR_TEXT_JINJA_PARSER_INTERNAL_H
#define CHOIR_TEXT_JINJA_PARSER_INTERNAL_H

#include "engine/text/jinja/jinja_internal.h"

typedef struct parser {
    run_t *run;
    const token_t *at;
    int nesting;
    int loops;                    /* that break and continue could leave here */
    bool caller, kwargs, varargs; /* names that the current macro uses */
    bool soft; /* inside an if: unknown filters and tests are errors only when called */
} parser_t;

node_t *jinja_parser_node(parser_t *p, node_kind_t kind);
void jinja_nodes_add(run_t *run, nodes_t *nodes, node_t *node);
bool jinja_parser_is(const parser_t *p, token_kind_t kind);
bool jinja_parser_is_name(const parser_t *p, const char *name);
bool jinja_parser_skip(parser_t *p, token_kind_t kind);
bool jinja_parser_skip_name(parser_t *p, const char *name);
const token_t *jinja_parser_expect(parser_t *p, token_kind_t kind);
void jinja_parser_enter(parser_t *p);
const char *jinja_token_text(const parser_t *p, const token_t *token);

node_t *jinja_parse_expression(parser_t *p);
node_t *jinja_parse_or(parser_t *p);
node_t *jinja_parse_filters(parser_t *p, node_t *node, bool started);

/* How a tuple is read: what its items are, and where it may end. */
enum {
    TUPLE_SIMPLE = 1,         /* names and literals only */
    TUPLE_NO_CONDITIONAL = 2, /* no `a if b else c` without parentheses */
    TUPLE_PARENTHESES = 4,    /* may be empty */
    TUPLE_NAMESPACES = 8,     /* ns.a is a target */
    TUPLE_ENDS_AT_IN = 16,
    TUPLE_ENDS_AT_RECURSIVE = 32
};
node_t *jinja_parse_tuple(parser_t *p, int how);

#endif
