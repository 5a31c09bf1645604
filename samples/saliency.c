/* Which pixels of a digit does its score depend on? The saliency map, from C.
 *
 *   graphc compile samples/digits.prototxt --weights samples/digits.caffemodel \
 *       --mode grad --diff score --wrt data --emit so -o libdigits.so
 *   cc -o saliency samples/saliency.c -I. -L. -ldigits -Wl,-rpath,.
 *   ./saliency samples/seven.pgm map.pgm
 *
 * Reads an 8 x 8 picture (plain PGM), prints the class and its score, and writes the absolute
 * gradient of that score by every pixel as a picture, the largest white.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "digits.h"

enum { SIDE = 8, PIXELS = SIDE * SIDE };

static int fail(const char *what, const char *why) {
    fprintf(stderr, "saliency: %s: %s\n", what, why);
    return 1;
}

static int read_picture(const char *path, float *pixels) {
    int width, height, white, value, fine = 1;
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0;
    if (fscanf(file, "P2 %d %d %d", &width, &height, &white) != 3) fine = 0;
    if (!fine || width != SIDE || height != SIDE || white < 1) fine = 0;
    for (int i = 0; fine && i < PIXELS; i++) {
        fine = fscanf(file, "%d", &value) == 1;
        pixels[i] = (float)value / (float)white;
    }
    fclose(file);
    return fine;
}

static int write_picture(const char *path, const float *gradient) {
    float largest = 0;
    for (int i = 0; i < PIXELS; i++) largest = fmaxf(largest, fabsf(gradient[i]));
    FILE *file = fopen(path, "w");
    if (file == NULL) return 0;
    fprintf(file, "P2\n%d %d\n255\n", SIDE, SIDE);
    for (int i = 0; i < PIXELS; i++) {
        float brightness = largest > 0 ? 255 * fabsf(gradient[i]) / largest : 0;
        fprintf(file, "%d%c", (int)lroundf(brightness), i % SIDE == SIDE - 1 ? '\n' : ' ');
    }
    return fclose(file) == 0;
}

int main(int count, char **words) {
    if (count != 3) return fail("usage", "saliency PICTURE.pgm MAP.pgm");
    int code;
    digits_net *net = digits_create(NULL, &code);
    if (net == NULL) return fail("the net", digits_error_text(code));

    float *image = digits_input(net, digits_input_index("data"));
    if (!read_picture(words[1], image)) return fail(words[1], "not a plain PGM of 8 x 8");
    code = digits_forward(net, 1);
    if (code != digits_OK) return fail("forward", digits_error_text(code));

    const float *scores = digits_output(net, digits_output_index("score"));
    int best = 0;
    for (int i = 1; i < 10; i++)
        if (scores[i] > scores[best]) best = i;
    printf("class %d, score %.6f\n", best, scores[best]);

    /* The gradient of one score: 1 for it, 0 for the others. */
    float *given = digits_given(net, digits_given_index("score"));
    for (int i = 0; i < 10; i++) given[i] = i == best;
    code = digits_backward(net, 1);
    if (code != digits_OK) return fail("backward", digits_error_text(code));

    const float *gradient = digits_gradient(net, digits_gradient_index("data"));
    if (!write_picture(words[2], gradient)) return fail(words[2], "cannot be written");
    digits_destroy(net);
    return 0;
}
