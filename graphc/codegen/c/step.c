
/* ---- training ---- */

#if @NET@_ITER_SIZE > 1
HIDDEN int @NET@_pass_run_forward(void **slots, int32_t threads, int64_t *error);
HIDDEN int @NET@_pass_run_backward(void **slots, int32_t threads, int64_t *error);

/* Adds to the gradients, and changes nothing else that lasts. */
static int run_pass(@NET@_net *net, int threads) {
    void *slots[PASS_SLOT_COUNT];
    for (int i = 0; i < PASS_SLOT_COUNT; i++) slots[i] = net->slots[pass_table[i]];
    int code = @NET@_pass_run_forward(slots, threads, net->error);
    if (code == @NET@_OK) code = @NET@_pass_run_backward(slots, threads, net->error);
    return code > 0 ? code + FIRST_PASS_CHECK : code;
}

static void clear_gradients(@NET@_net *net) {
    for (int i = 0; i < SUM_COUNT; i++)
        memset(net->slots[sum_table[i]], 0, (size_t)slot_table[sum_table[i]].bytes);
}
#endif

static int run_update(@NET@_net *net, int threads, double rate) {
    if (RATE_SLOT > 0)
        *(@NET@_real *)net->slots[RATE_SLOT] = (@NET@_real)(rate * RATE_CORRECTION(net->iteration + 1));
    int code = @NET@_run_forward(net->slots, threads, net->error);
    return code != @NET@_OK ? code : @NET@_run_backward(net->slots, threads, net->error);
}

int @NET@_step(@NET@_net *net, int threads) {
    if (!lives(net)) return @NET@_ERROR_NULL;
    if (threads < 1) return @NET@_ERROR_THREADS;
    double rate = rate_at(net->iteration);
    if (!isfinite(rate)) return @NET@_ERROR_RATE;
    int code = @NET@_OK, is_last = net->pass == @NET@_ITER_SIZE - 1;
    if (input_is_nan(net)) {
        net->pass = 0;
        return @NET@_ERROR_NAN;
    }
    note_states(net);
#if @NET@_ITER_SIZE > 1
    if (net->pass == 0) clear_gradients(net);
    if (!is_last) code = run_pass(net, threads);
#endif
    if (is_last) code = run_update(net, threads, rate);
    if (code != @NET@_OK) {
        restore_states(net);
        net->pass = 0;
        return code;
    }
    net->pass = is_last ? 0 : net->pass + 1;
    net->iteration += is_last;
    return @NET@_OK;
}

double @NET@_learning_rate(const @NET@_net *net) { return lives(net) ? rate_at(net->iteration) : 0; }

int64_t @NET@_iteration(const @NET@_net *net) { return lives(net) ? net->iteration : 0; }

int @NET@_set_iteration(@NET@_net *net, int64_t iteration) {
    if (!lives(net)) return @NET@_ERROR_NULL;
    if (iteration < 0 || iteration > MOST_ITERATIONS) return @NET@_ERROR_ITERATION;
    net->iteration = iteration;
    net->pass = 0;
    return @NET@_OK;
}

static int write_all(int file, const void *bytes, size_t count) {
    const unsigned char *next = bytes;
    while (count > 0) {
        ssize_t written = write(file, next, count < 1 << 30 ? count : 1 << 30);
        if (written <= 0) return 0;
        next += written;
        count -= (size_t)written;
    }
    return 1;
}

static int write_weights(const @NET@_net *net, int file) {
    const uint64_t numbers[6] = {WEIGHTS_BYTES,          WEIGHTS_LAYOUT, (uint64_t)net->iteration,
                                 (uint64_t)net->pass, TABLE_START,    0};
    int fine = write_all(file, MAGIC, 16) && write_all(file, numbers, sizeof numbers);
    for (int i = 0; fine && i < SLOT_COUNT; i++)
        if (slot_table[i].weights_offset)
            fine = write_all(file, net->slots[i], (size_t)slot_table[i].bytes);
    for (int i = 0; fine && i < LINE_COUNT; i++)
        fine = write_all(file, line_table[i], strlen(line_table[i]));
    return fine;
}

int @NET@_save(const @NET@_net *net, const char *path) {
    char beside[4096];
    if (!lives(net) || path == NULL) return @NET@_ERROR_NULL;
    size_t length = strlen(path);
    if (length + sizeof ".part" > sizeof beside) return @NET@_ERROR_WRITE;
    memcpy(beside, path, length);
    memcpy(beside + length, ".part", sizeof ".part");
    int file = open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (file < 0) return @NET@_ERROR_WRITE;
    int fine = write_weights(net, file);
    fine = close(file) == 0 && fine;
    if (fine && rename(beside, path) == 0) return @NET@_OK;
    unlink(beside);
    return @NET@_ERROR_WRITE;
}
