/* The calls of @NET@.h, on the tables above. */
#include <stdatomic.h>

struct @NET@_net {
    void *slots[SLOT_COUNT];
    int64_t error[2];
    unsigned char *noted; /* the states of note_table, as the last call found them */
#ifdef @NET@_HAS_STEP
    int64_t iteration, pass; /* done; those of one iteration */
#endif
    int can_go_back; /* a forward pass was made, and nothing of it is used up */
    void *own_parameters[PARAMETER_COUNT + 1];
    void *block;
    void *mapping;
    size_t mapping_bytes;
    struct @NET@_net *next; /* in the list of all that live */
};

HIDDEN int @NET@_run_forward(void **slots, int32_t threads, int64_t *error);
HIDDEN int @NET@_run_backward(void **slots, int32_t threads, int64_t *error);

/* ---- which nets live: a pointer to one that was destroyed is refused, not followed ---- */

static @NET@_net *living;
static atomic_flag list_is_taken = ATOMIC_FLAG_INIT;

static void take_list(void) {
    while (atomic_flag_test_and_set(&list_is_taken)) sched_yield();
}

static void give_list(void) { atomic_flag_clear(&list_is_taken); }

static int lives(const @NET@_net *net) {
    take_list();
    const @NET@_net *found = living;
    while (found != NULL && found != net) found = found->next;
    give_list();
    return found != NULL;
}

static void begin_life(@NET@_net *net) {
    take_list();
    net->next = living;
    living = net;
    give_list();
}

/* Whether there was a life to end: of two threads that destroy one net, one does. */
static int end_life(@NET@_net *net) {
    take_list();
    @NET@_net **place = &living;
    while (*place != NULL && *place != net) place = &(*place)->next;
    int found = *place != NULL;
    if (found) *place = net->next;
    give_list();
    return found;
}

static int set_error(int *place, int code) {
    if (place != NULL) *place = code;
    return code;
}

/* ---- weights: a mapped file, or bytes of this program ---- */

static uint64_t number_at(const unsigned char *bytes) {
    uint64_t number;
    memcpy(&number, bytes, sizeof number);
    return number;
}

#define MAGIC "graphc weights 2"

static int check_weights(const unsigned char *bytes, uint64_t size) {
    if (size < 16 || memcmp(bytes, MAGIC, 16) != 0) return @NET@_ERROR_NO_FILE;
    if (size < 64) return @NET@_ERROR_TRUNCATED;
    if (number_at(bytes + 24) != WEIGHTS_LAYOUT) return @NET@_ERROR_OTHER_NET;
    if (number_at(bytes + 16) != size || size != WEIGHTS_BYTES) return @NET@_ERROR_TRUNCATED;
    return @NET@_OK;
}

static int map_weights(@NET@_net *net, const char *path) {
    struct stat status;
    int file = open(path, O_RDONLY);
    if (file < 0) return @NET@_ERROR_OPEN;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
        close(file);
        return @NET@_ERROR_NO_FILE;
    }
    net->mapping_bytes = (size_t)status.st_size;
    net->mapping = mmap(NULL, net->mapping_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (net->mapping == MAP_FAILED) {
        net->mapping = NULL;
        return @NET@_ERROR_MEMORY;
    }
    return check_weights(net->mapping, net->mapping_bytes);
}

/* ---- a net's life ---- */

static int allocate(@NET@_net *net, const unsigned char *weights) {
    uint64_t total = 64 + NOTE_BYTES;
    for (int i = 0; i < SLOT_COUNT; i++)
        if (slot_table[i].own) total += slot_table[i].bytes;
    if (total > SIZE_MAX) return @NET@_ERROR_MEMORY;
    net->block = calloc(1, (size_t)total);
    if (net->block == NULL) return @NET@_ERROR_MEMORY;
    unsigned char *next = net->block;
    next += -(uintptr_t)next % 64;
    for (int i = 0; i < SLOT_COUNT; i++) {
        const slot_entry *slot = &slot_table[i];
        if (!slot->own) {
            /* The program only reads these; the table's type is one for all. */
            net->slots[i] = (void *)(uintptr_t)(weights + slot->weights_offset);
            continue;
        }
        net->slots[i] = next;
        if (slot->weights_offset) memcpy(next, weights + slot->weights_offset, slot->bytes);
        next += slot->bytes;
    }
    net->noted = next;
    for (int i = 0; i < PARAMETER_COUNT; i++)
        net->own_parameters[i] = net->slots[parameter_table[i].slot];
    return @NET@_OK;
}

@NET@_net *@NET@_create(const char *path, int *error) {
    @NET@_net *net = calloc(1, sizeof *net);
    if (net == NULL) {
        set_error(error, @NET@_ERROR_MEMORY);
        return NULL;
    }
    begin_life(net);
    const unsigned char *weights = EMBEDDED_WEIGHTS;
    int code = @NET@_OK;
    if (!PROCESSOR_FITS) {
        code = @NET@_ERROR_PROCESSOR;
    } else if (path != NULL) {
        code = map_weights(net, path);
        weights = net->mapping;
    } else if (weights == NULL) {
        code = @NET@_ERROR_NO_WEIGHTS;
    }
    if (code == @NET@_OK) code = allocate(net, weights);
#ifdef @NET@_HAS_STEP
    if (code == @NET@_OK) code = @NET@_set_iteration(net, (int64_t)number_at(weights + 32));
    if (code == @NET@_OK && number_at(weights + 40) < @NET@_ITER_SIZE)
        net->pass = (int64_t)number_at(weights + 40);
#endif
    if (set_error(error, code) == @NET@_OK) return net;
    @NET@_destroy(net);
    return NULL;
}

void @NET@_destroy(@NET@_net *net) {
    if (!end_life(net)) return;
    if (net->mapping != NULL) munmap(net->mapping, net->mapping_bytes);
    free(net->block);
    free(net);
}

/* ---- calls ---- */

/* Whether an input holds nan, which would become a label, or spread; the error's value is the
 * number of the input. In blocks, which compilers turn into vectors. */
static int input_is_nan(@NET@_net *net) {
    enum { BLOCK = 32 };
    for (int k = 0; k < INPUT_COUNT; k++) {
        const @NET@_real *values = net->slots[input_table[k].slot];
        int64_t i = 0, size = input_table[k].size;
        int found[BLOCK] = {0}, any = 0;
        for (; i + BLOCK <= size; i += BLOCK)
            for (int j = 0; j < BLOCK; j++) found[j] |= values[i + j] != values[i + j];
        for (; i < size; i++) any |= values[i] != values[i];
        for (int j = 0; j < BLOCK; j++) any |= found[j];
        if (any) net->error[1] = k;
        if (any) return 1;
    }
    return 0;
}

/* A failed check leaves states as they were: their values are put aside before each call. */
static void note_states(@NET@_net *net) {
    unsigned char *next = net->noted;
    for (int i = 0; i < NOTE_COUNT; i++) {
        size_t size = (size_t)slot_table[note_table[i]].bytes;
        memcpy(next, net->slots[note_table[i]], size);
        next += size;
    }
}

static void restore_states(@NET@_net *net) {
    const unsigned char *next = net->noted;
    for (int i = 0; i < NOTE_COUNT; i++) {
        size_t size = (size_t)slot_table[note_table[i]].bytes;
        memcpy(net->slots[note_table[i]], next, size);
        next += size;
    }
}

int @NET@_forward(@NET@_net *net, int threads) {
    if (!lives(net)) return @NET@_ERROR_NULL;
    if (threads < 1) return @NET@_ERROR_THREADS;
    net->can_go_back = 0;
    if (input_is_nan(net)) return @NET@_ERROR_NAN;
    note_states(net);
    int code = @NET@_run_forward(net->slots, threads, net->error);
    if (code != @NET@_OK) restore_states(net);
    net->can_go_back = code == @NET@_OK;
    return code;
}

#ifdef @NET@_HAS_GRADIENTS
int @NET@_backward(@NET@_net *net, int threads) {
    if (!lives(net)) return @NET@_ERROR_NULL;
    if (threads < 1) return @NET@_ERROR_THREADS;
    if (!net->can_go_back) return @NET@_ERROR_NO_FORWARD;
    net->can_go_back = 0;
    return @NET@_run_backward(net->slots, threads, net->error);
}
#endif

double @NET@_loss(const @NET@_net *net) {
    double total = 0;
    if (!lives(net)) return 0;
    for (int i = 0; i < LOSS_COUNT; i++) {
        const @NET@_real *values = net->slots[loss_table[i].slot];
        double sum = 0;
        for (int64_t k = 0; k < loss_table[i].size; k++) sum += values[k];
        total += loss_table[i].weight * sum;
    }
    return total;
}

int64_t @NET@_arena_bytes(void) { return ARENA_BYTES; }

int64_t @NET@_error_value(const @NET@_net *net) { return lives(net) ? net->error[1] : 0; }

const char *@NET@_error_text(int code) {
    if (code > 0 && code <= CHECK_COUNT) return check_table[code - 1];
    switch (code) {
        case @NET@_OK: return "fine";
        case @NET@_ERROR_NULL: return "an argument is NULL, or the net was destroyed";
        case @NET@_ERROR_THREADS: return "the number of threads is below 1";
        case @NET@_ERROR_MEMORY: return "there is not enough memory";
        case @NET@_ERROR_NO_WEIGHTS: return "no weights are embedded, and no file is named";
        case @NET@_ERROR_OPEN: return "the weights file cannot be opened";
        case @NET@_ERROR_NO_FILE: return "the file is no graphc weights file";
        case @NET@_ERROR_OTHER_NET: return "the weights are those of another net";
        case @NET@_ERROR_TRUNCATED: return "the weights file is cut short, or longer than it says";
        case @NET@_ERROR_INDEX: return "there is no array of this number";
        case @NET@_ERROR_ALIGNMENT: return "an array does not begin at a multiple of 64 bytes";
        case @NET@_ERROR_NO_FORWARD: return "backward needs a forward pass before each call";
        case @NET@_ERROR_PROCESSOR:
            return "the code needs a processor with other instructions; compile for this one";
        case @NET@_ERROR_RATE: return "the learning rate's policy has none for this iteration";
        case @NET@_ERROR_ITERATION: return "a number of iterations is below 0, or far too large";
        case @NET@_ERROR_WRITE: return "the file cannot be written";
        case @NET@_ERROR_NAN: return "an input holds nan";
        default: return "an unknown error";
    }
}

/* ---- arrays ---- */

static const array_entry *entry(const array_entry *table, int count, int i) {
    return i >= 0 && i < count ? &table[i] : NULL;
}

static int index_of(const array_entry *table, int count, const char *name) {
    for (int i = 0; name != NULL && i < count; i++)
        if (strcmp(table[i].name, name) == 0) return i;
    return -1;
}

#define GROUP(KIND, TABLE, COUNT, TYPE)                                                      \
    int @NET@_##KIND##_count(void) { return COUNT; }                                         \
    int @NET@_##KIND##_index(const char *name) { return index_of(TABLE, COUNT, name); }      \
    const char *@NET@_##KIND##_name(int i) {                                                 \
        const array_entry *found = entry(TABLE, COUNT, i);                                   \
        return found == NULL ? NULL : found->name;                                           \
    }                                                                                        \
    int @NET@_##KIND##_rank(int i) {                                                         \
        const array_entry *found = entry(TABLE, COUNT, i);                                   \
        return found == NULL ? 0 : found->rank;                                              \
    }                                                                                        \
    const int64_t *@NET@_##KIND##_shape(int i) {                                             \
        const array_entry *found = entry(TABLE, COUNT, i);                                   \
        return found == NULL ? NULL : found->shape;                                          \
    }                                                                                        \
    int64_t @NET@_##KIND##_size(int i) {                                                     \
        const array_entry *found = entry(TABLE, COUNT, i);                                   \
        return found == NULL ? 0 : found->size;                                              \
    }                                                                                        \
    TYPE *@NET@_##KIND(const @NET@_net *net, int i) {                                        \
        const array_entry *found = entry(TABLE, COUNT, i);                                   \
        return !lives(net) || found == NULL ? NULL : net->slots[found->slot];                \
    }

GROUP(input, input_table, INPUT_COUNT, @NET@_real)
GROUP(output, output_table, OUTPUT_COUNT, const @NET@_real)
#ifdef @NET@_HAS_STEP
GROUP(parameter, parameter_table, PARAMETER_COUNT, @NET@_real)
GROUP(history, history_table, HISTORY_COUNT, @NET@_real)
#else
GROUP(parameter, parameter_table, PARAMETER_COUNT, const @NET@_real)
#endif
#ifdef @NET@_HAS_GRADIENTS
GROUP(given, given_table, GIVEN_COUNT, @NET@_real)
GROUP(gradient, gradient_table, GRADIENT_COUNT, const @NET@_real)
#endif

#ifndef @NET@_HAS_STEP
int @NET@_bind_parameter(@NET@_net *net, int i, const @NET@_real *array) {
    const array_entry *found = entry(parameter_table, PARAMETER_COUNT, i);
    if (!lives(net)) return @NET@_ERROR_NULL;
    if (found == NULL) return @NET@_ERROR_INDEX;
    if ((uintptr_t)array % 64 != 0) return @NET@_ERROR_ALIGNMENT;
    net->slots[found->slot] = array == NULL ? net->own_parameters[i] : (void *)(uintptr_t)array;
    net->can_go_back = 0;
    return @NET@_OK;
}
#endif
