/* The calls of @NET@.h, on the tables above. */

struct @NET@_net {
    void *slots[SLOT_COUNT];
    int64_t error[2];
    int can_go_back; /* a forward pass was made, and nothing of it is used up */
    void *own_parameters[PARAMETER_COUNT + 1];
    void *block;
    void *mapping;
    size_t mapping_bytes;
};

HIDDEN int @NET@_run_forward(void **slots, int32_t threads, int64_t *error);
HIDDEN int @NET@_run_backward(void **slots, int32_t threads, int64_t *error);

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

static int check_weights(const unsigned char *bytes, uint64_t size) {
    if (size < 16 || memcmp(bytes, "graphc weights 1", 16) != 0) return @NET@_ERROR_NO_FILE;
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
    uint64_t total = 64;
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
    if (set_error(error, code) == @NET@_OK) return net;
    @NET@_destroy(net);
    return NULL;
}

void @NET@_destroy(@NET@_net *net) {
    if (net == NULL) return;
    if (net->mapping != NULL) munmap(net->mapping, net->mapping_bytes);
    free(net->block);
    free(net);
}

/* ---- calls ---- */

int @NET@_forward(@NET@_net *net, int threads) {
    if (net == NULL) return @NET@_ERROR_NULL;
    if (threads < 1) return @NET@_ERROR_THREADS;
    int code = @NET@_run_forward(net->slots, threads, net->error);
    net->can_go_back = code == @NET@_OK;
    return code;
}

#ifdef @NET@_HAS_GRADIENTS
int @NET@_backward(@NET@_net *net, int threads) {
    if (net == NULL) return @NET@_ERROR_NULL;
    if (threads < 1) return @NET@_ERROR_THREADS;
    if (!net->can_go_back) return @NET@_ERROR_NO_FORWARD;
    net->can_go_back = 0;
    return @NET@_run_backward(net->slots, threads, net->error);
}
#endif

double @NET@_loss(const @NET@_net *net) {
    double total = 0;
    if (net == NULL) return 0;
    for (int i = 0; i < LOSS_COUNT; i++) {
        const @NET@_real *values = net->slots[loss_table[i].slot];
        double sum = 0;
        for (int64_t k = 0; k < loss_table[i].size; k++) sum += values[k];
        total += loss_table[i].weight * sum;
    }
    return total;
}

int64_t @NET@_arena_bytes(void) { return ARENA_BYTES; }

int64_t @NET@_error_value(const @NET@_net *net) { return net == NULL ? 0 : net->error[1]; }

const char *@NET@_error_text(int code) {
    if (code > 0 && code <= CHECK_COUNT) return check_table[code - 1];
    switch (code) {
        case @NET@_OK: return "fine";
        case @NET@_ERROR_NULL: return "an argument is NULL";
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
        return net == NULL || found == NULL ? NULL : net->slots[found->slot];                \
    }

GROUP(input, input_table, INPUT_COUNT, @NET@_real)
GROUP(output, output_table, OUTPUT_COUNT, const @NET@_real)
GROUP(parameter, parameter_table, PARAMETER_COUNT, const @NET@_real)
#ifdef @NET@_HAS_GRADIENTS
GROUP(given, given_table, GIVEN_COUNT, @NET@_real)
GROUP(gradient, gradient_table, GRADIENT_COUNT, const @NET@_real)
#endif

int @NET@_bind_parameter(@NET@_net *net, int i, const @NET@_real *array) {
    const array_entry *found = entry(parameter_table, PARAMETER_COUNT, i);
    if (net == NULL) return @NET@_ERROR_NULL;
    if (found == NULL) return @NET@_ERROR_INDEX;
    if ((uintptr_t)array % 64 != 0) return @NET@_ERROR_ALIGNMENT;
    net->slots[found->slot] = array == NULL ? net->own_parameters[i] : (void *)(uintptr_t)array;
    net->can_go_back = 0;
    return @NET@_OK;
}
