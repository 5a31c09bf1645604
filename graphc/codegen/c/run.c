
/* ---- running a net once ---- */

static void print_help(const char *program, arrays given, arrays made) {
    printf("usage: ");
    print_visible(stdout, program);
    printf(" NAME=FILE ... [-o NAME=FILE.npy ...]\n\n");
    printf("Runs the net @NET@ on arrays. Without -o it prints what comes out. A FILE is a .npy, a\n"
           "PGM or PPM picture (P2, P3, P5, P6) of the input's size, or a .raw: numbers alone.\n\n");
    print_arrays("inputs", given);
    print_arrays("outputs", made);
    puts("\noptions:\n"
         "  -o NAME=FILE.npy  write an output\n"
         "  --threads N       threads of a call; else one for every usable core\n"
         "  --bench N         time N calls (inputs that are not given are zero)\n"
         "  --weights FILE    other weights for this net (a .weights file)\n"
         "  --mean M[,M,M]    subtract from a picture's pixels, 0 .. 255; one for each channel\n"
         "  --scale S         multiply a picture with S, after the mean\n"
         "  --channels ORDER  of the net's colours: bgr (Caffe) or rgb (MatConvNet)\n"
         "  --help            this text\n\n"
         "exit codes: 0 fine, 2 wrong usage, 3 bad input");
}

/* A summary of a result that goes to no file. */
static void print_result(const array *row) {
    const @NET@_real *values = row->memory;
    print_array(row);
    if (row->size == 1) {
        printf(" %.9g\n", (double)values[0]);
        return;
    }
    int64_t low = 0, high = 0;
    for (int64_t i = 1; i < row->size; i++) {
        if (values[i] < values[low]) low = i;
        if (values[i] > values[high]) high = i;
    }
    if (row->size > 0)
        printf(" smallest %.6g at %" PRId64 ", largest %.6g at %" PRId64, (double)values[low], low,
               (double)values[high], high);
    putchar('\n');
}

static void bench(@NET@_net *net, int count, int threads) {
    double *times = malloc(2 * sizeof(double) * (size_t)count);
    if (times == NULL) fail(BAD_INPUT, "there is not enough memory");
    for (int i = -1; i < count; i++) { /* the first call, not counted, warms the caches */
        double start = seconds();
        must(net, @NET@_forward(net, threads));
        double middle = seconds();
#ifdef @NET@_HAS_GRADIENTS
        must(net, @NET@_backward(net, threads));
#endif
        if (i >= 0) times[i] = middle - start;
        if (i >= 0) times[count + i] = seconds() - middle;
    }
    print_median("forward", times, count, threads);
#ifdef @NET@_HAS_GRADIENTS
    print_median("backward", times + count, count, threads);
#endif
    free(times);
}

/* Every input must be given; of the gradients, one, or none where a loss gives them. */
static void need_sources(arrays given, int needs_gradient) {
    int gradients = 0, found = 0;
    for (int i = 0; i < given.count; i++) {
        int is_gradient = given.rows[i].suffix[0] != '\0';
        gradients += is_gradient;
        found += is_gradient && given.rows[i].file != NULL;
        if (!is_gradient && given.rows[i].file == NULL)
            fail(WRONG_USAGE, "input '%s' is missing: %s=FILE.npy (--help lists them)",
                 given.rows[i].name, given.rows[i].name);
    }
    if (needs_gradient && !@HAS_LOSSES@ && gradients > 0 && found == 0)
        fail(WRONG_USAGE, "a gradient to start from is missing: NAME.diff=FILE.npy"
                          " (--help lists them)");
}

static int is_rgb(const char *word) {
    int found = word != NULL && strcmp(word, "rgb") == 0;
    if (!found && (word == NULL || strcmp(word, "bgr") != 0))
        fail(WRONG_USAGE, "--channels is bgr or rgb");
    return found;
}

static int read_own_option(void *own, const char *option, const char *value) {
    look *how = own;
    if (strcmp(option, "--mean") == 0)
        read_means(value, how);
    else if (strcmp(option, "--scale") == 0)
        how->scale = real_number(option, value);
    else if (strcmp(option, "--channels") == 0)
        how->is_rgb = is_rgb(value);
    else
        return 0;
    return 1;
}

int main(int count, char **words) {
    look how = {{0, 0, 0}, 1, COLUMN_MAJOR};
    settings chosen = read_arguments(count, words, &how);
    if (!chosen.calls) need_sources(chosen.given, chosen.goes_back);
    @NET@_net *net = open_net(chosen.weights);
    attach(chosen.given, sources(net));
    attach(chosen.made, results(net));
    for (int i = 0; i < chosen.given.count; i++)
        if (chosen.given.rows[i].file != NULL) read_file(&chosen.given.rows[i], &how);
    if (chosen.calls) bench(net, chosen.calls, chosen.threads);
    must(net, @NET@_forward(net, chosen.threads));
#ifdef @NET@_HAS_GRADIENTS
    if (chosen.goes_back) must(net, @NET@_backward(net, chosen.threads));
#endif
    for (int i = 0; i < chosen.made.count; i++) {
        const array *row = &chosen.made.rows[i];
        if (row->file != NULL)
            write_npy(row);
        else if (!chosen.writes && !chosen.calls && (chosen.goes_back || row->suffix[0] == '\0'))
            print_result(row);
    }
    free(chosen.given.rows);
    free(chosen.made.rows);
    @NET@_destroy(net);
    return 0;
}
