
/* ---- training ---- */

/* An input whose items are served in batches, one after another, again from the start. */
typedef struct {
    const array *row;
    @NET@_real *values;
    int64_t items, next;
} feed;

static void print_help(const char *program, arrays given, arrays made) {
    printf("usage: ");
    print_visible(stdout, program);
    printf(" NAME=FILE.npy ... --save FILE.weights [--steps N]\n\n");
    printf("Trains the net @NET@ by @METHOD@ on arrays in .npy files. Their first axis counts the\n"
           "items, as many in each file; every pass takes the next ones, and begins again after\n"
           "the last. An iteration has %d pass%s; it changes the parameters.\n\n",
           @NET@_ITER_SIZE, @NET@_ITER_SIZE == 1 ? "" : "es");
    print_arrays("inputs of one pass", given);
    print_arrays("outputs, parameters and what the solver remembers", made);
    puts("\noptions:\n"
         "  --steps N         iterations; else up to the solver's max_iter\n"
         "  --save FILE       write a .weights file, to go on from and for graphc in Python\n"
         "  --weights FILE    go on from such a file\n"
         "  -o NAME=FILE.npy  write what an array holds at the end: -o conv1/0=conv1.npy\n"
         "  --every N         print the loss of every N-th iteration; else ten times\n"
         "  --threads N       threads of a call; else one for every usable core\n"
         "  --bench N         time N passes instead (inputs that are not given are zero)\n"
         "  --help            this text\n\n"
         "exit codes: 0 fine, 2 wrong usage, 3 bad input");
}

/* ---- batches ---- */

static feed open_feed(const array *row) {
    feed made = {row, NULL, 1, 0};
    int in_order;
    FILE *file = open_npy(row, row->rank > 0, &made.items, &in_order);
    if (!in_order)
        fail(BAD_INPUT, "'%s' is in Fortran order; numpy.ascontiguousarray makes it row-major",
             row->file);
    int64_t item = row->rank == 0 ? 1 : row->shape[0] == 0 ? 0 : row->size / row->shape[0];
    if (item > 0 && made.items > (int64_t)(SIZE_MAX / 4 / sizeof(@NET@_real)) / item)
        fail(BAD_INPUT, "'%s' is cut short", row->file);
    /* A wrong header must not make the memory end: the file is measured first. */
    long start = ftell(file);
    size_t size = (size_t)(made.items * item) * sizeof(@NET@_real);
    if (start < 0 || fseek(file, 0, SEEK_END) != 0 || (size_t)(ftell(file) - start) < size)
        fail(BAD_INPUT, "'%s' is cut short", row->file);
    fseek(file, start, SEEK_SET);
    made.values = malloc(size + 1);
    if (made.values == NULL) fail(BAD_INPUT, "there is not enough memory for '%s'", row->file);
    read_values(file, made.values, made.items * item, row->file);
    return made;
}

static void serve(feed *from) {
    int64_t batch = from->row->rank == 0 ? 1 : from->row->shape[0];
    size_t bytes = batch == 0 ? 0 : (size_t)(from->row->size / batch) * sizeof(@NET@_real);
    unsigned char *place = from->row->memory;
    for (int64_t i = 0; i < batch; i++, place += bytes) {
        memcpy(place, (unsigned char *)from->values + (size_t)from->next * bytes, bytes);
        from->next = (from->next + 1) % from->items;
    }
}

static feed *open_feeds(arrays given) {
    feed *feeds = calloc((size_t)given.count + 1, sizeof *feeds);
    const feed *first = NULL;
    if (feeds == NULL) fail(BAD_INPUT, "there is not enough memory");
    for (int i = 0; i < given.count; i++) {
        if (given.rows[i].file == NULL) continue;
        feeds[i] = open_feed(&given.rows[i]);
        if (given.rows[i].rank == 0) continue;
        if (first == NULL) first = &feeds[i];
        if (feeds[i].items != first->items)
            fail(BAD_INPUT, "'%s' has %" PRId64 " items, '%s' has %" PRId64, first->row->file,
                 first->items, given.rows[i].file, feeds[i].items);
    }
    return feeds;
}

/* ---- what the command line says ---- */

typedef struct {
    int steps, every;
    const char *save;
} schedule;

static int read_own_option(void *own, const char *option, const char *value) {
    schedule *plan = own;
    if (strcmp(option, "--steps") == 0)
        plan->steps = whole_number(option, value, 1000000000);
    else if (strcmp(option, "--every") == 0)
        plan->every = whole_number(option, value, 1000000000);
    else if (strcmp(option, "--save") == 0 && value != NULL)
        plan->save = value;
    else
        return 0;
    return 1;
}

static void need_all(const settings *chosen, const schedule *plan) {
    for (int i = 0; i < chosen->given.count; i++)
        if (chosen->given.rows[i].file == NULL)
            fail(WRONG_USAGE, "input '%s' is missing: %s=FILE.npy (--help lists them)",
                 chosen->given.rows[i].name, chosen->given.rows[i].name);
    if (plan->save == NULL && chosen->writes == 0)
        fail(WRONG_USAGE, "say where the result goes: --save FILE.weights, or -o NAME=FILE.npy");
    if (plan->steps == 0 && @NET@_MAX_ITER == 0)
        fail(WRONG_USAGE, "the solver has no max_iter; say how long to train: --steps N");
}

/* ---- the work ---- */

/* One pass, on the next batches; the loss before its change. */
static double pass(@NET@_net *net, feed *feeds, int count, int threads) {
    for (int i = 0; i < count; i++)
        if (feeds[i].items > 0) serve(&feeds[i]);
    must(net, @NET@_step(net, threads));
    return @NET@_loss(net);
}

static void bench(@NET@_net *net, feed *feeds, const settings *chosen) {
    double *times = malloc(sizeof(double) * (size_t)chosen->calls);
    if (times == NULL) fail(BAD_INPUT, "there is not enough memory");
    for (int i = -1; i < chosen->calls; i++) { /* the first pass, not counted, warms the caches */
        double start = seconds();
        pass(net, feeds, chosen->given.count, chosen->threads);
        if (i >= 0) times[i] = seconds() - start;
    }
    print_median("step", times, chosen->calls, chosen->threads);
    free(times);
}

/* In a run that goes on, every input begins with the item that would have come next. */
static void skip_served(const @NET@_net *net, feed *feeds, int count) {
    for (int i = 0; i < count; i++) {
        if (feeds[i].items == 0 || feeds[i].row->rank == 0) continue;
        int64_t done = @NET@_iteration(net) % feeds[i].items * @NET@_ITER_SIZE % feeds[i].items;
        feeds[i].next = done * (feeds[i].row->shape[0] % feeds[i].items) % feeds[i].items;
    }
}

static void train(@NET@_net *net, feed *feeds, const settings *chosen, const schedule *plan) {
    int64_t first = @NET@_iteration(net);
    int64_t last = plan->steps ? first + plan->steps : @NET@_MAX_ITER;
    int64_t every = plan->every ? plan->every : last - first > 10 ? (last - first) / 10 : 1;
    skip_served(net, feeds, chosen->given.count);
    for (int64_t n = first; n < last; n++) {
        double rate = @NET@_learning_rate(net), loss = 0;
        for (int k = 0; k < @NET@_ITER_SIZE; k++)
            loss += pass(net, feeds, chosen->given.count, chosen->threads);
        if ((n - first) % every == 0 || n == last - 1)
            printf("iteration %" PRId64 "  loss %.6g  rate %.6g\n", n, loss / @NET@_ITER_SIZE, rate);
        if ((n - first) % every == 0) fflush(stdout);
    }
}

int main(int count, char **words) {
    schedule plan = {0, 0, NULL};
    settings chosen = read_arguments(count, words, &plan);
    if (!chosen.calls) need_all(&chosen, &plan);
    @NET@_net *net = open_net(chosen.weights);
    attach(chosen.given, sources(net));
    attach(chosen.made, results(net));
    feed *feeds = open_feeds(chosen.given);
    if (chosen.calls)
        bench(net, feeds, &chosen);
    else
        train(net, feeds, &chosen, &plan);
    for (int i = 0; i < chosen.made.count; i++)
        if (chosen.made.rows[i].file != NULL) write_npy(&chosen.made.rows[i]);
    if (plan.save != NULL && @NET@_save(net, plan.save) != @NET@_OK)
        fail(BAD_INPUT, "'%s' cannot be written", plan.save);
    for (int i = 0; i < chosen.given.count; i++) free(feeds[i].values);
    free(feeds);
    free(chosen.given.rows);
    free(chosen.made.rows);
    @NET@_destroy(net);
    return 0;
}
