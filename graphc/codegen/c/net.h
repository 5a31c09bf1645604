/* @TITLE@: a neural network compiled by graphc for @TARGET@.
 *
@ARRAYS@
 *
 * A call of @NET@_create makes a net with all of its memory; nothing is allocated after it (with
 * threads > 1 a call starts threads and ends them). A call needs less than 64 KiB of stack.
 * @LAYOUT@ and are the memory that the net works on: write inputs into them, call, read results.
 * They stay where they are until @NET@_destroy. Different nets may be used at the same time from
 * different threads, one net only from one thread at a time.
 */
#ifndef @NET@_H
#define @NET@_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef @REAL@ @NET@_real;
typedef struct @NET@_net @NET@_net;

/* What calls return. A positive number is the number of a check that the values of an input failed,
 * as a label outside of the classes; @NET@_error_value tells the value. */
enum {
    @NET@_OK = 0,
    @NET@_ERROR_NULL = -1,         /* an argument is NULL, or the net was destroyed */
    @NET@_ERROR_THREADS = -2,      /* the number of threads is below 1 */
    @NET@_ERROR_MEMORY = -3,       /* there is not enough memory */
    @NET@_ERROR_NO_WEIGHTS = -4,   /* no weights are embedded, and no file is named */
    @NET@_ERROR_OPEN = -5,         /* the weights file cannot be opened */
    @NET@_ERROR_NO_FILE = -6,      /* the file is no graphc weights file */
    @NET@_ERROR_OTHER_NET = -7,    /* the weights are those of another net */
    @NET@_ERROR_TRUNCATED = -8,    /* the weights file is cut short, or longer than it says */
    @NET@_ERROR_INDEX = -9,        /* there is no array of this number */
    @NET@_ERROR_ALIGNMENT = -10,   /* an array does not begin at a multiple of 64 bytes */
    @NET@_ERROR_NO_FORWARD = -11,  /* backward needs a forward pass before each call */
    @NET@_ERROR_PROCESSOR = -12,   /* the code needs a processor with other instructions */
    @NET@_ERROR_RATE = -13,        /* the learning rate's policy has none for this iteration */
    @NET@_ERROR_ITERATION = -14,   /* a number of iterations is below 0, or far too large */
    @NET@_ERROR_WRITE = -15,       /* the file cannot be written */
    @NET@_ERROR_NAN = -16          /* an input holds nan */
};

/* A sentence for any of these numbers; never NULL. */
const char *@NET@_error_text(int code);
/* The value that failed the last call's check; for @NET@_ERROR_NAN the number of the input. */
int64_t @NET@_error_value(const @NET@_net *net);

/* A net, or NULL and the reason in *error (where error is not NULL).
 * weights: a file to map read-only@WEIGHTS@. */
@NET@_net *@NET@_create(const char *weights, int *error);
/* Frees a net; NULL is allowed, and a net that was destroyed already. */
void @NET@_destroy(@NET@_net *net);

/* Runs the net on its inputs; returns @NET@_OK or what is wrong. */
int @NET@_forward(@NET@_net *net, int threads);
@BACKWARD@
/* The weighted sum of the losses of the last forward pass; 0 for a net without losses. */
double @NET@_loss(const @NET@_net *net);
/* Bytes of working memory that @NET@_create takes beside the arrays below. */
int64_t @NET@_arena_bytes(void);

/* For every kind of array: how many there are; the number of the one of a name (-1: none);
 * name, number of axes, extents and number of elements of number i; and its memory.
 * A wrong number gives NULL, or 0. */
@GROUPS@
@BINDING@
#ifdef __cplusplus
}
#endif
#endif
