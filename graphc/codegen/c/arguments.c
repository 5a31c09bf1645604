
/* ---- what the command line says ---- */

typedef struct {
    int threads, calls;
    const char *weights;
    arrays given, made;
    int goes_back, writes; /* whether gradients are asked for; how many files are written */
} settings;

/* Of the program that follows: its help, and its own options, which it notes in `own`. Whether it
 * has this one. */
static void print_help(const char *program, arrays given, arrays made);
static int read_own_option(void *own, const char *option, const char *value);

static void read_name(settings *chosen, const char *argument, int is_output) {
    array *row = named(is_output ? chosen->made : chosen->given, argument);
    if (row == NULL)
        fail(WRONG_USAGE, "'%s' is no NAME=FILE.npy of an %s; --help lists them", argument,
             is_output ? "output" : "input");
    chosen->goes_back |= row->suffix[0] != '\0';
    chosen->writes += is_output;
}

static void read_option(settings *chosen, void *own, const char *option, const char *value) {
    if (strcmp(option, "--threads") == 0)
        chosen->threads = whole_number(option, value, 256);
    else if (strcmp(option, "--bench") == 0)
        chosen->calls = whole_number(option, value, 1000000);
    else if (strcmp(option, "--weights") == 0 && value != NULL)
        chosen->weights = value;
    else if (strcmp(option, "-o") == 0 && value != NULL)
        read_name(chosen, value, 1);
    else if (!read_own_option(own, option, value))
        fail(WRONG_USAGE, "'%s' is no option, or lacks its value; --help lists them", option);
}

static settings read_arguments(int count, char **words, void *own) {
    settings chosen = {usable_cores(), 0, NULL, sources(NULL), results(NULL), 0, 0};
    for (int i = 1; i < count; i++) {
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            print_help(words[0], chosen.given, chosen.made);
            exit(0);
        }
        if (words[i][0] != '-') {
            read_name(&chosen, words[i], 0);
            continue;
        }
        read_option(&chosen, own, words[i], i + 1 < count ? words[i + 1] : NULL);
        i++;
    }
    return chosen;
}
