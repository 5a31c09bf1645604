/* The program around a net: arrays by name, .npy files, the net.
 * Exit codes: 0 fine, 2 wrong usage, 3 an input, a weights file or an output file is not right. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "@NET@.h"

#define REAL_DESCR "@DESCR@"
#define REAL_NAME "@DTYPE@"
#define COLUMN_MAJOR @COLUMN_MAJOR@ /* of an array's axes the first varies fastest, not the last */
#define WEIGHTS_FILE @WEIGHTS_FILE@ /* beside the program; NULL: they are embedded */

#define MOST_AXES 64

enum { WRONG_USAGE = 2, BAD_INPUT = 3 };

/* An array that the user can name, with what was said about it. */
typedef struct {
    const char *name;
    const char *suffix; /* ".diff" for gradients */
    int rank;
    const int64_t *shape;
    int64_t size;
    void *memory;
    const char *file;
} array;

typedef struct {
    array *rows;
    int count;
} arrays;

@VISIBLE@static void fail(int exit_code, const char *format, ...) {
    va_list rest, again;
    va_start(rest, format);
    va_copy(again, rest);
    int length = vsnprintf(NULL, 0, format, rest);
    char *text = malloc((size_t)(length < 0 ? 0 : length) + 1);
    fputs("@NET@: error: ", stderr);
    if (length >= 0 && text != NULL) {
        vsnprintf(text, (size_t)length + 1, format, again);
        print_visible(stderr, text);
    }
    fputc('\n', stderr);
    va_end(again);
    va_end(rest);
    exit(exit_code);
}

/* ---- the tables of arrays ---- */

#define LIST(FUNCTION, KIND, SUFFIX)                                                     \
    static arrays FUNCTION(@NET@_net *net, arrays list) {                                \
        int count = @NET@_##KIND##_count();                                              \
        list.rows = realloc(list.rows, sizeof(array) * (size_t)(list.count + count + 1)); \
        if (list.rows == NULL) fail(BAD_INPUT, "there is not enough memory");            \
        for (int i = 0; i < count; i++)                                                  \
            list.rows[list.count++] = (array){                                           \
                @NET@_##KIND##_name(i),  SUFFIX,                                         \
                @NET@_##KIND##_rank(i),  @NET@_##KIND##_shape(i),                        \
                @NET@_##KIND##_size(i),  (void *)(uintptr_t)@NET@_##KIND(net, i),        \
                NULL};                                                                   \
        return list;                                                                     \
    }

LIST(list_inputs, input, "")
LIST(list_outputs, output, "")
#ifdef @NET@_HAS_STEP
LIST(list_parameters, parameter, "")
LIST(list_histories, history, "")
#endif
#ifdef @NET@_HAS_GRADIENTS
LIST(list_given, given, ".diff")
LIST(list_gradients, gradient, ".diff")
#endif

static arrays sources(@NET@_net *net) {
    arrays list = list_inputs(net, (arrays){NULL, 0});
#ifdef @NET@_HAS_GRADIENTS
    list = list_given(net, list);
#endif
    return list;
}

static arrays results(@NET@_net *net) {
    arrays list = list_outputs(net, (arrays){NULL, 0});
#ifdef @NET@_HAS_STEP
    list = list_parameters(net, list);
    list = list_histories(net, list);
#endif
#ifdef @NET@_HAS_GRADIENTS
    list = list_gradients(net, list);
#endif
    return list;
}

/* The row that an argument NAME=FILE is about; its file is set. NULL: there is no such name. */
static array *named(arrays list, const char *argument) {
    for (int i = 0; i < list.count; i++) {
        size_t name = strlen(list.rows[i].name), suffix = strlen(list.rows[i].suffix);
        if (strncmp(argument, list.rows[i].name, name) == 0 &&
            strncmp(argument + name, list.rows[i].suffix, suffix) == 0 &&
            argument[name + suffix] == '=' && argument[name + suffix + 1] != '\0') {
            if (list.rows[i].file != NULL)
                fail(WRONG_USAGE, "'%s%s' is given twice", list.rows[i].name, list.rows[i].suffix);
            list.rows[i].file = argument + name + suffix + 1;
            return &list.rows[i];
        }
    }
    return NULL;
}

/* ---- texts ---- */

/* A shape as people read it, [2, 3], up to the next call. */
static const char *shape_text(int rank, const int64_t *shape) {
    static char text[24 * MOST_AXES];
    int end = 0;
    text[end++] = '[';
    for (int i = 0; i < rank && i < MOST_AXES - 1; i++)
        end += snprintf(text + end, 24, "%s%" PRId64, i ? ", " : "", shape[i]);
    memcpy(text + end, "]", 2);
    return text;
}

/* An array's name and shape. */
static void print_array(const array *row) {
    print_visible(stdout, row->name);
    printf("%s %s", row->suffix, shape_text(row->rank, row->shape));
}

static void print_arrays(const char *head, arrays list) {
    printf("%s (%s, @ORDER@):\n", head, REAL_NAME);
    for (int i = 0; i < list.count; i++) {
        printf("  ");
        print_array(&list.rows[i]);
        putchar('\n');
    }
}

/* ---- .npy files (numpy's format 1.0 to 3.0) ---- */

static const char *after_key(const char *header, const char *key, const char *path) {
    const char *found = strstr(header, key);
    if (found == NULL) fail(BAD_INPUT, "'%s' has a damaged header", path);
    found += strlen(key);
    while (*found == ' ' || *found == ':') found++;
    return found;
}

/* How many items the first axis has. It is the net's unless `any_items`; the others always are. */
static int64_t check_shape(const char *text, const array *row, const char *path, int any_items) {
    const char *start = text;
    int64_t items = 1;
    int rank = 0, same = 1;
    if (*text++ != '(') fail(BAD_INPUT, "'%s' has a damaged header", path);
    while (*text != ')' && *text != '\0') {
        char *end;
        int64_t extent = strtoll(text, &end, 10);
        if (end == text) fail(BAD_INPUT, "'%s' has a damaged header", path);
        if (rank == 0) items = extent;
        same = same && rank < row->rank &&
               ((any_items && rank == 0 && extent > 0) || extent == row->shape[rank]);
        rank++;
        for (text = end; *text == ',' || *text == ' '; text++) continue;
    }
    if (same && rank == row->rank) return items;
    fail(BAD_INPUT, "'%s' has shape %.*s, '%s%s' needs %s%s", path, (int)strcspn(start, ")") + 1,
         start, row->name, row->suffix, shape_text(row->rank, row->shape),
         any_items && row->rank > 0 ? ", with any number of items" : "");
    return 0;
}

/* As check_shape; *in_order tells whether the elements lie in the file as they do in memory. */
static int64_t check_header(const char *header, const array *row, const char *path, int any_items,
                            int *in_order) {
    const char *descr = after_key(header, "'descr'", path);
    int length = descr[0] == '\'' ? (int)strcspn(descr + 1, "'") : 0;
    if ((size_t)length != strlen(REAL_DESCR) || strncmp(descr + 1, REAL_DESCR, (size_t)length) != 0)
        fail(BAD_INPUT, "'%s' holds '%.*s', '%s%s' needs '" REAL_DESCR "' (" REAL_NAME ")", path,
             length, descr + 1, row->name, row->suffix);
    int64_t items = check_shape(after_key(header, "'shape'", path), row, path, any_items);
    const char *order = after_key(header, "'fortran_order'", path);
    int column_major = strncmp(order, "True", 4) == 0;
    if (!column_major && strncmp(order, "False", 5) != 0)
        fail(BAD_INPUT, "'%s' has a damaged header", path);
    *in_order = column_major == COLUMN_MAJOR || row->rank < 2;
    return items;
}

static void read_bytes(FILE *file, void *place, size_t count, const char *path) {
    if (fread(place, 1, count, file) != count) fail(BAD_INPUT, "'%s' is cut short", path);
}

static void check_values(const @NET@_real *values, int64_t size, const char *path) {
    for (int64_t i = 0; i < size; i++)
        if (isnan(values[i])) fail(BAD_INPUT, "'%s' holds nan, first at element %" PRId64, path, i);
}

/* Opens a file and goes to its values; *items and *in_order as check_header tells. */
static FILE *open_npy(const array *row, int any_items, int64_t *items, int *in_order) {
    unsigned char start[12];
    FILE *file = fopen(row->file, "rb");
    if (file == NULL) fail(BAD_INPUT, "'%s' cannot be opened", row->file);
    size_t got = fread(start, 1, 8, file);
    if (got < 6 || memcmp(start, "\x93NUMPY", 6) != 0)
        fail(BAD_INPUT, "'%s' is not a .npy file" @OTHER_FILES@, row->file);
    if (got < 8) fail(BAD_INPUT, "'%s' is cut short", row->file);
    size_t width = start[6] == 1 ? 2 : 4, length = 0;
    read_bytes(file, start + 8, width, row->file);
    for (size_t i = 0; i < width; i++) length |= (size_t)start[8 + i] << (8 * i);
    if (length > 1 << 20) fail(BAD_INPUT, "'%s' has a damaged header", row->file);
    char *header = calloc(1, length + 1);
    if (header == NULL) fail(BAD_INPUT, "there is not enough memory");
    read_bytes(file, header, length, row->file);
    *items = check_header(header, row, row->file, any_items, in_order);
    free(header);
    return file;
}

/* Reads the values to the end of the file. */
static void read_values(FILE *file, @NET@_real *values, int64_t size, const char *path) {
    read_bytes(file, values, (size_t)size * sizeof(@NET@_real), path);
    if (fgetc(file) != EOF) fail(BAD_INPUT, "'%s' is longer than its header says", path);
    fclose(file);
    check_values(values, size, path);
}

static void write_npy(const array *row) {
    char header[2048];
    int length = snprintf(header, sizeof header,
                          "{'descr': '" REAL_DESCR "', 'fortran_order': %s, 'shape': (",
                          COLUMN_MAJOR && row->rank > 1 ? "True" : "False");
    for (int i = 0; i < row->rank; i++)
        length += snprintf(header + length, sizeof header - (size_t)length, "%" PRId64 ", ",
                           row->shape[i]);
    length += snprintf(header + length, sizeof header - (size_t)length, "), }");
    while ((length + 11) % 64 != 0) header[length++] = ' ';
    header[length++] = '\n';
    unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    start[8] = (unsigned char)(length & 255);
    start[9] = (unsigned char)(length >> 8);
    FILE *file = fopen(row->file, "wb");
    if (file == NULL) fail(BAD_INPUT, "'%s' cannot be written", row->file);
    size_t size = (size_t)row->size * sizeof(@NET@_real);
    int fine = fwrite(start, 1, 10, file) == 10;
    fine = fwrite(header, 1, (size_t)length, file) == (size_t)length && fine;
    fine = fwrite(row->memory, 1, size, file) == size && fine;
    if (fclose(file) != 0 || !fine) {
        remove(row->file);
        fail(BAD_INPUT, "'%s' cannot be written", row->file);
    }
}

/* ---- the net ---- */

static void must(const @NET@_net *net, int code) {
    if (code > 0)
        fail(BAD_INPUT, "%s; found %" PRId64, @NET@_error_text(code), @NET@_error_value(net));
    if (code != @NET@_OK) fail(BAD_INPUT, "%s", @NET@_error_text(code));
}

static @NET@_net *open_net(const char *weights) {
    int error;
    char *beside = NULL;
    const char *name = WEIGHTS_FILE;
    if (weights == NULL && name != NULL) {
        char path[4096];
        ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
        path[length < 0 ? 0 : length] = '\0';
        const char *slash = strrchr(path, '/');
        int folder = slash == NULL ? 0 : (int)(slash - path) + 1;
        size_t room = (size_t)folder + strlen(name) + 1;
        beside = malloc(room);
        if (beside == NULL) fail(BAD_INPUT, "there is not enough memory");
        snprintf(beside, room, "%.*s%s", folder, path, name);
        weights = beside;
    }
    @NET@_net *net = @NET@_create(weights, &error);
    if (net == NULL && weights != NULL)
        fail(BAD_INPUT, "weights '%s': %s", weights, @NET@_error_text(error));
    must(net, error);
    free(beside);
    return net;
}

static int usable_cores(void) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    return CPU_COUNT(&cores) < 256 ? CPU_COUNT(&cores) : 256;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void print_median(const char *what, double *times, int count, int threads) {
    qsort(times, (size_t)count, sizeof *times, by_size);
    printf("%s: median %.4g ms of %d calls, %d thread%s\n", what, 1e3 * times[count / 2], count,
           threads, threads == 1 ? "" : "s");
}

/* ---- arguments ---- */

static int whole_number(const char *option, const char *text, int most) {
    char *end = NULL;
    long number = text == NULL ? 0 : strtol(text, &end, 10);
    if (text == NULL || *text == '\0' || *end != '\0' || number < 1 || number > most)
        fail(WRONG_USAGE, "%s needs a number from 1 to %d", option, most);
    return (int)number;
}

/* Rows that were listed without a net get the memory of one. */
static void attach(arrays list, arrays of_net) {
    for (int i = 0; i < list.count; i++) list.rows[i].memory = of_net.rows[i].memory;
    free(of_net.rows);
}
