
/* ---- pictures and bare numbers ---- */

/* How the pixels of a picture, 0 .. 255, become numbers. */
typedef struct {
    double means[3], scale; /* (pixel - mean) * scale, a mean for each channel of the net */
    int is_rgb;             /* the order of the net's channels; else blue comes first */
} look;

/* What a PGM or PPM says next, behind blanks and comments, which go to the end of their line. */
static int next_sign(FILE *file) {
    int sign = fgetc(file);
    while (sign == ' ' || sign == '\t' || sign == '\n' || sign == '\r' || sign == '#') {
        while (sign == '#' && (sign = fgetc(file)) != '\n' && sign != EOF) sign = '#';
        sign = fgetc(file);
    }
    return sign;
}

/* The next number that a PGM or PPM has as text. */
static int64_t text_number(FILE *file, const char *path, const char *part) {
    int sign = next_sign(file);
    int64_t number = 0;
    if (sign == EOF) fail(BAD_INPUT, "'%s' is cut short", path);
    if (sign < '0' || sign > '9') fail(BAD_INPUT, "'%s' has a damaged %s", path, part);
    for (; sign >= '0' && sign <= '9' && number < 1 << 24; sign = fgetc(file))
        number = 10 * number + sign - '0';
    return number; /* the one blank after it is read too */
}

static void read_pixels(FILE *file, const array *row, int colours, int is_text, int64_t white,
                        const look *how) {
    int64_t height = row->shape[COLUMN_MAJOR ? 0 : 2], width = row->shape[COLUMN_MAJOR ? 1 : 3];
    int64_t pixels = width * height;
    @NET@_real *values = row->memory;
    for (int64_t i = 0; i < pixels; i++)
        for (int colour = 0; colour < colours; colour++) {
            int64_t value = is_text ? text_number(file, row->file, "pixel") : fgetc(file);
            if (value == EOF) fail(BAD_INPUT, "'%s' is cut short", row->file);
            if (value > white)
                fail(BAD_INPUT, "'%s' has a pixel %" PRId64 ", its white is %" PRId64, row->file,
                     value, white);
            int channel = how->is_rgb ? colour : colours - 1 - colour;
            double pixel = 255.0 * (double)value / (double)white - how->means[channel];
            int64_t place = COLUMN_MAJOR ? i % width * height + i / width : i;
            values[channel * pixels + place] = (@NET@_real)(pixel * how->scale);
        }
}

/* A PGM or PPM of the input's size, its pixels as text (P2, P3) or as bytes (P5, P6). */
static void read_picture(FILE *file, const array *row, int kind, const look *how) {
    int colours = kind == '2' || kind == '5' ? 1 : 3, is_text = kind == '2' || kind == '3';
    int64_t width = text_number(file, row->file, "header");
    int64_t height = text_number(file, row->file, "header");
    int64_t white = text_number(file, row->file, "header");
    if (white < 1 || white > 255)
        fail(BAD_INPUT, "'%s' has %" PRId64 " shades; pictures of up to 255 are read", row->file, white);
    int64_t wanted[4] = {1, colours, height, width}, turned[4] = {height, width, colours, 1};
    const int64_t *shape = COLUMN_MAJOR ? turned : wanted;
    if (row->rank != 4 || memcmp(row->shape, shape, sizeof wanted) != 0)
        fail(BAD_INPUT, "'%s' has %d channel%s of %" PRId64 " x %" PRId64 ", '%s' needs %s",
             row->file, colours, colours == 1 ? "" : "s", height, width, row->name,
             shape_text(row->rank, row->shape));
    read_pixels(file, row, colours, is_text, white, how);
    if ((is_text ? next_sign(file) : fgetc(file)) != EOF) fail(BAD_INPUT, "'%s' is longer than its header says", row->file);
}

/* Numbers without a header, in this machine's order of bytes. */
static void read_bare(FILE *file, const array *row) {
    size_t size = (size_t)row->size * sizeof(@NET@_real);
    size_t found = fread(row->memory, 1, size, file);
    if (found != size || fgetc(file) != EOF)
        fail(BAD_INPUT, "'%s' does not have %zu bytes, %" PRId64 " numbers " REAL_NAME " for '%s'",
             row->file, size, row->size, row->name);
    check_values(row->memory, row->size, row->file);
}

/* Turns elements in the other order of axes into the one of the net's memory. */
static void reorder(const array *row, const char *path) {
    int64_t stride[MOST_AXES], index[MOST_AXES] = {0}, step = 1, place = 0;
    size_t bytes = (size_t)row->size * sizeof(@NET@_real);
    @NET@_real *memory = row->memory, *from = malloc(bytes + 1);
    if (row->rank > MOST_AXES || from == NULL)
        fail(BAD_INPUT, "there is not enough memory to turn the axes of '%s'", path);
    memcpy(from, memory, bytes);
    for (int k = 0; k < row->rank; k++) {
        int axis = COLUMN_MAJOR ? k : row->rank - 1 - k;
        stride[axis] = step;
        step *= row->shape[axis];
    }
    for (int64_t i = 0; i < row->size; i++) {
        memory[place] = from[i];
        for (int k = 0; k < row->rank; k++) { /* the file's fastest axis first */
            int axis = COLUMN_MAJOR ? row->rank - 1 - k : k;
            place += stride[axis];
            if (++index[axis] < row->shape[axis]) break;
            place -= stride[axis] * row->shape[axis];
            index[axis] = 0;
        }
    }
    free(from);
}

static int ends_in(const char *text, const char *end) {
    size_t length = strlen(text), most = strlen(end);
    return length >= most && strcmp(text + length - most, end) == 0;
}

/* Reads what a row's file holds; the name tells bare numbers, the first bytes tell the rest. */
static void read_file(const array *row, const look *how) {
    int64_t items;
    int in_order;
    FILE *file = fopen(row->file, "rb");
    if (file == NULL) fail(BAD_INPUT, "'%s' cannot be opened", row->file);
    int is_bare = ends_in(row->file, ".raw");
    int first = is_bare ? EOF : fgetc(file), kind = is_bare ? EOF : fgetc(file);
    if (is_bare) {
        read_bare(file, row);
    } else if (first == 'P' && kind != EOF && strchr("2356", kind) != NULL && kind != '\0') {
        read_picture(file, row, kind, how);
    } else {
        fclose(file);
        file = open_npy(row, 0, &items, &in_order);
        read_values(file, row->memory, row->size, row->file);
        if (!in_order) reorder(row, row->file);
        return;
    }
    fclose(file);
}

static void read_means(const char *text, look *how) {
    char *end = NULL;
    int count = 0;
    for (const char *next = text; next != NULL && count < 3; count++) {
        how->means[count] = strtod(next, &end);
        if (end == next || (*end != ',' && *end != '\0')) break;
        next = *end == ',' ? end + 1 : NULL;
    }
    if (text == NULL || end == NULL || *end != '\0' || (count != 1 && count != 3))
        fail(WRONG_USAGE, "--mean needs a number, or three: M,M,M");
    if (count == 1) how->means[1] = how->means[2] = how->means[0];
}

static double real_number(const char *option, const char *text) {
    char *end = NULL;
    double number = text == NULL ? 0 : strtod(text, &end);
    if (text == NULL || *text == '\0' || *end != '\0' || !isfinite(number))
        fail(WRONG_USAGE, "%s needs a number", option);
    return number;
}
