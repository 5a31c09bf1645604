/* Train a net from C, and read its weights back.
 *
 *   python samples/digits_data.py .
 *   graphc compile samples/digits_train.prototxt --mode train \
 *       --solver samples/digits_solver.prototxt --emit so -o libdigits_train.so
 *   cc -o train_digits samples/train_digits.c -I. -L. -ldigits_train -Wl,-rpath,.
 *   ./train_digits
 *
 * Trains on the pictures in training.npy, whose labels are in training_labels.npy, prints the share
 * of held-out digits it gets right, and writes digits.weights, which Python reads:
 * graphc.Net("samples/digits.prototxt", weights="digits.weights").
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digits_train.h"

enum { BATCH = 60, PIXELS = 8 * 8, THREADS = 1 };

typedef struct {
    float *values;
    size_t count;
} numbers;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "train_digits: %s: %s\n", what, why);
    exit(1);
}

/* All numbers of a .npy file, whose first ten bytes tell how long its header is. */
static numbers read_npy(const char *path) {
    unsigned char start[10];
    char header[65536];
    numbers found = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail(path, "cannot be opened; samples/digits_data.py writes it");
    if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY\x01", 7) != 0)
        fail(path, "not a .npy file of version 1");
    size_t length = start[8] + 256u * start[9];
    if (fread(header, 1, length, file) != length) fail(path, "cut short");
    header[length < sizeof header ? length : sizeof header - 1] = '\0';
    if (strstr(header, "'<f4'") == NULL) fail(path, "not of type float32");
    long first = ftell(file);
    fseek(file, 0, SEEK_END);
    found.count = (size_t)(ftell(file) - first) / sizeof(float);
    fseek(file, first, SEEK_SET);
    found.values = malloc(found.count * sizeof(float) + 1);
    if (found.values == NULL) fail(path, "not enough memory");
    if (fread(found.values, sizeof(float), found.count, file) != found.count)
        fail(path, "cannot be read");
    fclose(file);
    return found;
}

static void must(const digits_train_net *net, int code) {
    if (code == digits_train_OK) return;
    fprintf(stderr, "value %ld: ", (long)digits_train_error_value(net));
    fail("the net", digits_train_error_text(code));
}

/* Puts one batch into the inputs; after the last picture the first comes again. */
static void serve(digits_train_net *net, numbers pictures, numbers labels, size_t first) {
    float *data = digits_train_input(net, digits_train_input_index("data"));
    float *label = digits_train_input(net, digits_train_input_index("label"));
    for (size_t i = 0; i < BATCH; i++) {
        size_t from = (first + i) % labels.count;
        memcpy(data + i * PIXELS, pictures.values + from * PIXELS, PIXELS * sizeof(float));
        label[i] = labels.values[from];
    }
}

/* The share of right answers: forward alone changes nothing in this net. */
static double accuracy(digits_train_net *net, numbers pictures, numbers labels) {
    double sum = 0;
    size_t batches = labels.count / BATCH;
    for (size_t batch = 0; batch < batches; batch++) {
        serve(net, pictures, labels, batch * BATCH);
        must(net, digits_train_forward(net, THREADS));
        sum += digits_train_output(net, digits_train_output_index("accuracy"))[0];
    }
    return sum / (double)batches;
}

int main(void) {
    numbers pictures = read_npy("training.npy"), labels = read_npy("training_labels.npy");
    numbers held_out = read_npy("held_out.npy"), answers = read_npy("held_out_labels.npy");
    if (pictures.count != labels.count * PIXELS || held_out.count != answers.count * PIXELS ||
        labels.count < BATCH || answers.count < BATCH)
        fail("the data", "a label for each picture of 8 x 8 is needed, and 60 of them");
    int code;
    digits_train_net *net = digits_train_create(NULL, &code);
    if (net == NULL) fail("the net", digits_train_error_text(code));

    for (int i = 0; i < digits_train_MAX_ITER; i++) {
        serve(net, pictures, labels, (size_t)i * BATCH);
        double rate = digits_train_learning_rate(net);
        must(net, digits_train_step(net, THREADS));
        if (i % 40 == 0) printf("step %3d  loss %.4f  rate %g\n", i, digits_train_loss(net), rate);
    }
    printf("held-out digits right: %.2f%%\n", 100 * accuracy(net, held_out, answers));

    /* Weights are plain memory, to be read and written. */
    int bias = digits_train_parameter_index("score/1");
    printf("%s:", digits_train_parameter_name(bias));
    for (int i = 0; i < digits_train_parameter_size(bias); i++)
        printf(" %.3f", digits_train_parameter(net, bias)[i]);
    printf("\n");
    must(net, digits_train_save(net, "digits.weights"));

    digits_train_destroy(net);
    free(pictures.values);
    free(labels.values);
    free(held_out.values);
    free(answers.values);
    return 0;
}
